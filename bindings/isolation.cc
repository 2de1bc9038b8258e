#include "bindings/isolation.h"

#include <dlfcn.h>
#include <lz4.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>
#include <zstd.h>

#include <map>
#include <string>

namespace nb = nanobind;

namespace ps::bindings {
namespace {

template <typename Function>
std::string OriginOf(Function* function) {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(function), &info) == 0) return "";
  return info.dli_fname;
}

// The addresses are taken as the module's own code would call them.
std::map<std::string, std::string> SymbolOrigins() {
  return {{"SSL_CTX_new", OriginOf(&SSL_CTX_new)},
          {"HMAC", OriginOf(&HMAC)},
          {"ZSTD_compress", OriginOf(&ZSTD_compress)},
          {"LZ4_compress_default", OriginOf(&LZ4_compress_default)}};
}

}  // namespace

void BindIsolation(nb::module_& module) { module.def("symbol_origins", &SymbolOrigins); }

}  // namespace ps::bindings
