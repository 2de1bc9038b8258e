#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <utility>

#include "ps/base/status.h"

namespace ps::bindings {

// The one place where statuses become exceptions: each code its class of pyspark_ps.errors, which
// is imported when the first one is thrown. The GIL must be held. A Python exception that is set
// already (a signal handler's, while a call was waiting) goes first.
[[noreturn]] void Throw(const Status& status);

inline void Check(const Status& status) {
  if (!status.ok()) Throw(status);
}

template <typename T>
T Check(Result<T> result) {
  if (!result.ok()) Throw(result.status());
  return std::move(result).value();
}

// True when a signal came whose handler raised: the call that waits must end. Only the main thread
// runs Python's signal handlers. Called without the GIL.
bool IsInterrupted();

}  // namespace ps::bindings
