# How every file of ours is compiled. Machine-specific flags (-march) stay out: SIMD is chosen at run time.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# -g1: line numbers for traces and profilers; wheels are stripped.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -g1 -DNDEBUG")
# Sanitized builds; their assertions, ours and the standard library's, stay on.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O0 -g1 -D_GLIBCXX_ASSERTIONS")
# Paths of this machine stay out of debug information, and two copies of the tree give equal objects.
add_compile_options(-ffile-prefix-map=${PROJECT_SOURCE_DIR}=.)

find_program(PS_CCACHE ccache)
if(PS_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # With a base folder the cache serves other copies of the tree, such as the one that a wheel is built in. A file that
  # is not in the cache is not preprocessed once more to look for it: the compiler's own list of headers serves.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}
    CCACHE_DEPEND=1 CCACHE_SLOPPINESS=pch_defines,time_macros ${PS_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()

find_package(Threads REQUIRED)

# Everything of ours links this; third-party targets never do.
add_library(ps_options INTERFACE)
target_compile_options(ps_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wno-conversion -Werror
  # Initial rows are the same bits on every machine: no a * b + c becomes fused unless written so.
  -ffp-contract=off)
target_include_directories(ps_options INTERFACE
  ${PROJECT_SOURCE_DIR}/src ${PROJECT_BINARY_DIR}/generated)
target_link_libraries(ps_options INTERFACE Threads::Threads)

# Test sources are a third of all compiling; -Og is GCC's quickest with precompiled headers.
set(PS_TEST_OPTIONS -Og)

# Each SIMD target is the same source once more. Of floats SSSE3 makes nothing that SSE2 does not, nor AVX3_DL than AVX3;
# a sanitizer sees nothing in AVX3 that it does not see in AVX2.
set(PS_SIMD_LEFT_OUT HWY_SSSE3|HWY_AVX3_DL)
if(PS_SANITIZE)
  string(APPEND PS_SIMD_LEFT_OUT |HWY_AVX3)
  # What undefined behaviour the libraries have shows in the libraries; in test sources its checks cost a quarter more.
  set(PS_TEST_OPTIONS -fno-sanitize=undefined)
endif()

if(PS_SANITIZE)
  # For the whole build: object files of both kinds in one program is what sanitizers misjudge.
  add_compile_options(-fsanitize=${PS_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PS_SANITIZE})
  if(PS_SANITIZE MATCHES "undefined")
    # What these two find the address sanitizer finds as well; without them files compile in four fifths of the time.
    add_compile_options(-fno-sanitize=null,object-size)
  endif()
  if(PS_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC warns that it does not model std::atomic_thread_fence; asio uses it.
    add_compile_options(-Wno-tsan)
  endif()
endif()
