# How every file of ours is compiled. Machine-specific flags (-march) stay out: SIMD is chosen at run time.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(PS_CCACHE ccache)
if(PS_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${PS_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${PS_CCACHE})
endif()

find_package(Threads REQUIRED)

# Everything of ours links this; third-party targets never do.
add_library(ps_options INTERFACE)
target_compile_options(ps_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wno-conversion -Werror)
target_include_directories(ps_options INTERFACE
  ${PROJECT_SOURCE_DIR}/src ${PROJECT_BINARY_DIR}/generated)
target_link_libraries(ps_options INTERFACE Threads::Threads)

if(PS_SANITIZE)
  # For the whole build: object files of both kinds in one program is what sanitizers misjudge.
  add_compile_options(-fsanitize=${PS_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PS_SANITIZE})
  if(PS_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC warns that it does not model std::atomic_thread_fence; asio uses it.
    add_compile_options(-Wno-tsan)
  endif()
endif()
