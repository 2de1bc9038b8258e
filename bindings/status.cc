#include "bindings/status.h"

#include <unistd.h>

namespace nb = nanobind;

namespace ps::bindings {
namespace {

const char* ClassName(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument:
      return "InvalidArgumentError";
    case StatusCode::kConfiguration:
      return "ConfigurationError";
    case StatusCode::kNotFound:
      return "NotFoundError";
    case StatusCode::kConnection:
      return "PSConnectionError";
    case StatusCode::kAuthentication:
      return "AuthenticationError";
    case StatusCode::kTimeout:
      return "PSTimeoutError";
    case StatusCode::kResourceExhausted:
      return "ResourceExhaustedError";
    case StatusCode::kDataCorruption:
      return "DataCorruptionError";
    case StatusCode::kStorage:
      return "StorageError";
    case StatusCode::kClosed:
      return "ClosedError";
    case StatusCode::kOk:
    case StatusCode::kInternal:
      break;
  }
  return "PSError";
}

}  // namespace

void Throw(const Status& status) {
  if (PyErr_Occurred() == nullptr) {
    nb::object type = nb::module_::import_("pyspark_ps.errors").attr(ClassName(status.code()));
    // Messages may hold bytes that a peer chose.
    nb::object text = nb::steal(PyUnicode_DecodeUTF8(
        status.message().data(), static_cast<Py_ssize_t>(status.message().size()), "replace"));
    PyErr_SetObject(type.ptr(), text.ptr());
  }
  throw nb::python_error();
}

bool IsInterrupted() {
  if (::gettid() != ::getpid()) return false;
  nb::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

}  // namespace ps::bindings
