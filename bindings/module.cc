// pyspark_ps._core: the only C++ that knows Python. Importing it starts no thread and opens no
// socket.
#include <nanobind/nanobind.h>

#include "bindings/checkpoint.h"
#include "bindings/client.h"
#include "bindings/definitions.h"
#include "bindings/isolation.h"
#include "bindings/keys.h"
#include "bindings/optimizers.h"
#include "bindings/parquet.h"
#include "bindings/segments.h"
#include "bindings/server.h"
#include "bindings/views.h"
#include "ps/base/version.h"

NB_MODULE(_core, module) {
  // A client that lives until the interpreter ends is no defect.
  nanobind::set_leak_warnings(false);
  module.attr("__version__") = PS_VERSION;
  ps::bindings::BindIsolation(module);
  ps::bindings::BindDefinitions(module);
  ps::bindings::BindKeys(module);
  ps::bindings::BindOptimizers(module);
  ps::bindings::BindSegments(module);
  ps::bindings::BindClient(module);
  ps::bindings::BindServer(module);
  ps::bindings::BindViews(module);
  ps::bindings::BindCheckpoint(module);
  ps::bindings::BindParquet(module);
}
