# Third-party libraries, all linked statically: TensorFlow and Arrow bring their own OpenSSL, zstd and lz4 into the same
# process, and a shared library of ours would be bound to theirs.

# ps_static_library(<target> <archive> HEADER <header>): an imported target for lib<archive>.a; an error when it is not there.
function(ps_static_library target archive)
  cmake_parse_arguments(arg "" "HEADER" "" ${ARGN})
  find_library(PS_${archive}_A lib${archive}.a REQUIRED)
  find_path(PS_${archive}_INCLUDE ${arg_HEADER} REQUIRED)
  add_library(${target} STATIC IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES IMPORTED_LOCATION ${PS_${archive}_A})
  # Headers of the system's own include folder need no -isystem (which would break #include_next).
  if(NOT PS_${archive}_INCLUDE STREQUAL "/usr/include")
    target_include_directories(${target} SYSTEM INTERFACE ${PS_${archive}_INCLUDE})
  endif()
endfunction()

# ps_header_library(<target> <header>)
function(ps_header_library target header)
  find_path(${target}_INCLUDE ${header} REQUIRED)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  if(NOT ${target}_INCLUDE STREQUAL "/usr/include")
    target_include_directories(${target} SYSTEM INTERFACE ${${target}_INCLUDE})
  endif()
endfunction()

ps_static_library(ps_crypto crypto HEADER openssl/evp.h)
ps_static_library(ps_ssl ssl HEADER openssl/ssl.h)
target_link_libraries(ps_crypto INTERFACE Threads::Threads ${CMAKE_DL_LIBS})
target_link_libraries(ps_ssl INTERFACE ps_crypto)
ps_static_library(ps_lz4 lz4 HEADER lz4.h)
ps_static_library(ps_zstd zstd HEADER zstd.h)
ps_static_library(ps_xxhash xxhash HEADER xxhash.h)

# Debian has no static libhwy; the few functions that its headers call are ours.
find_path(PS_HWY_INCLUDE hwy/highway.h REQUIRED)
add_library(ps_hwy STATIC ${PROJECT_SOURCE_DIR}/cmake/hwy_targets.cc)
target_include_directories(ps_hwy SYSTEM PUBLIC ${PS_HWY_INCLUDE})

ps_header_library(ps_json nlohmann/json.hpp)

# Asio's own function bodies are compiled once here, not again in each file that includes it.
find_path(PS_ASIO_INCLUDE asio.hpp REQUIRED)
add_library(ps_asio STATIC ${PROJECT_SOURCE_DIR}/cmake/asio_impl.cc)
# Whether Asio takes handler memory from aligned_alloc or new would depend on what a file includes before it; one
# file frees what another allocates.
target_compile_definitions(ps_asio PUBLIC
  ASIO_STANDALONE ASIO_NO_DEPRECATED ASIO_SEPARATE_COMPILATION ASIO_DISABLE_STD_ALIGNED_ALLOC)
target_link_libraries(ps_asio PUBLIC ps_ssl Threads::Threads)

# What any library of ours may use.
add_library(ps_third_party INTERFACE)
target_link_libraries(ps_third_party INTERFACE
  ps_asio ps_ssl ps_crypto ps_lz4 ps_zstd ps_xxhash ps_hwy ps_json)

if(PS_TESTS)
  find_package(GTest REQUIRED)
endif()
if(PS_BENCH)
  find_package(benchmark REQUIRED)
endif()
