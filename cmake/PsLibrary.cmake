# Compiles sources of a target some at a time, as one file: what they include is read once for all of them, and of
# templates each instance is made once, which halves the time of tests and of sanitized libraries. So no two files of a
# folder give one name to two things, not even in nameless namespaces. Libraries of the release build, which are edited,
# measured and shipped, are compiled file by file.
function(ps_compile_in_batches target)
  if(PS_SANITIZE)
    set(files 16)
  else()
    set(files 8)
  endif()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${files})
endfunction()

# ps_library(<folder> DEPS <folders...> [TEST_DEPS testing] [THREADS] [SIMD]):
#   src/ps/<folder>/*.cc  -> static library ps_<folder>
#   *_test.cc there       -> one program ps_<folder>_test and one ctest entry of that name
#   *_bench.cc there      -> nothing (benchmarks live in bench/)
# TEST_DEPS names what the test program needs beyond DEPS.
# THREADS labels the test `threads`; those run under the thread sanitizer too.
# SIMD: includes Highway, which does not go with macros of the sockets' headers.
# A folder without sources yet is a library of headers alone.
function(ps_library folder)
  cmake_parse_arguments(arg "THREADS;SIMD" "" "DEPS;TEST_DEPS" ${ARGN})
  set(dir ${PROJECT_SOURCE_DIR}/src/ps/${folder})
  file(GLOB sources CONFIGURE_DEPENDS ${dir}/*.cc)
  set(test_sources ${sources})
  list(FILTER test_sources INCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_(test|bench)\\.cc$")

  list(TRANSFORM arg_DEPS PREPEND ps_ OUTPUT_VARIABLE deps)
  list(TRANSFORM arg_TEST_DEPS PREPEND ps_ OUTPUT_VARIABLE test_deps)
  if(sources)
    add_library(ps_${folder} STATIC ${sources})
    target_link_libraries(ps_${folder} PUBLIC ${deps} ps_options ps_third_party)
    if(arg_SIMD)
      target_compile_definitions(ps_${folder} PRIVATE HWY_DISABLED_TARGETS=${PS_SIMD_LEFT_OUT})
    elseif(PS_SANITIZE)
      ps_compile_in_batches(ps_${folder})
    endif()
    if(TARGET ps_headers AND NOT arg_SIMD)
      target_precompile_headers(ps_${folder} REUSE_FROM ps_headers)
    endif()
  else()
    add_library(ps_${folder} INTERFACE)
    target_link_libraries(ps_${folder} INTERFACE ${deps} ps_options ps_third_party)
  endif()

  if(PS_TESTS AND test_sources)
    set(test ps_${folder}_test)
    add_executable(${test} ${test_sources})
    target_compile_options(${test} PRIVATE ${PS_TEST_OPTIONS})
    ps_compile_in_batches(${test})
    if(arg_SIMD)
      target_compile_definitions(${test} PRIVATE HWY_DISABLED_TARGETS=${PS_SIMD_LEFT_OUT})
    endif()
    target_link_libraries(${test} PRIVATE ps_${folder} ${test_deps} GTest::gmock GTest::gtest_main)
    target_precompile_headers(${test} REUSE_FROM ps_test_headers)
    add_test(NAME ${test} COMMAND ${test} --gtest_brief=1)
    set_tests_properties(${test} PROPERTIES TIMEOUT 300)
    if(arg_THREADS)
      set_tests_properties(${test} PROPERTIES LABELS threads)
    endif()
    set_property(GLOBAL APPEND PROPERTY PS_TEST_PROGRAMS ${test})
    if(arg_THREADS)
      set_property(GLOBAL APPEND PROPERTY PS_THREAD_TEST_PROGRAMS ${test})
    endif()
  endif()
endfunction()
