# What nearly every test includes is read once for all test programs: a quarter less to compile in each. Libraries gain
# nothing by it (their time goes into optimising, and loading 130 MB costs what it saves). Tests still include what they
# use, so they compile without it as well.
function(ps_precompile_test_headers)
  file(WRITE ${PROJECT_BINARY_DIR}/generated/test_headers.cc "int main() {}\n")
  add_executable(ps_test_headers EXCLUDE_FROM_ALL ${PROJECT_BINARY_DIR}/generated/test_headers.cc)
  target_compile_options(ps_test_headers PRIVATE ${PS_TEST_OPTIONS})
  target_link_libraries(ps_test_headers PRIVATE ps_options ps_third_party GTest::gmock)
  target_precompile_headers(ps_test_headers PRIVATE
    <gmock/gmock.h> <gtest/gtest.h> <algorithm> <atomic> <chrono> <functional> <map> <memory> <mutex> <optional> <random>
    <span> <string> <thread> <vector> <asio/io_context.hpp> <asio/post.hpp> <asio/steady_timer.hpp> <nlohmann/json.hpp>)
endfunction()

# ps_library(<folder> DEPS <folders...> [TEST_DEPS testing] [THREADS]):
#   src/ps/<folder>/*.cc  -> static library ps_<folder>
#   *_test.cc there       -> one program ps_<folder>_test and one ctest entry of that name
#   *_bench.cc there      -> nothing (benchmarks live in bench/)
# TEST_DEPS names what the test program needs beyond DEPS.
# THREADS labels the test `threads`; those run under the thread sanitizer too.
# A folder without sources yet is a library of headers alone.
function(ps_library folder)
  cmake_parse_arguments(arg "THREADS" "" "DEPS;TEST_DEPS" ${ARGN})
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
  else()
    add_library(ps_${folder} INTERFACE)
    target_link_libraries(ps_${folder} INTERFACE ${deps} ps_options ps_third_party)
  endif()

  if(PS_TESTS AND test_sources)
    set(test ps_${folder}_test)
    add_executable(${test} ${test_sources})
    target_compile_options(${test} PRIVATE ${PS_TEST_OPTIONS})
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
