#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace ps {

// What went wrong, in the words of the public error classes (one Python class per code).
// The numbers travel on the wire: never renumber.
enum class StatusCode : int {
  kOk = 0,
  kInvalidArgument = 1,    // the call is wrong whatever the state of the cluster
  kConfiguration = 2,      // a configuration value is wrong or not supported
  kNotFound = 3,           // table, weight, barrier or checkpoint that does not exist
  kConnection = 4,         // the peer cannot be reached, or went away
  kAuthentication = 5,     // the peer does not know the job's secret
  kTimeout = 6,            // the call's deadline passed
  kResourceExhausted = 7,  // a limit that protects the server
  kDataCorruption = 8,     // bytes that cannot be what was written
  kStorage = 9,            // a place that cannot be read or written
  kClosed = 10,            // not started, or closed
  kInternal = 11,          // a defect of this program
};

std::string_view StatusCodeName(StatusCode code);

// The outcome of an operation that returns no value. Cheap when ok (no allocation).
// A message says what was wrong, where, which value, and what to do; it is shown to users as it is.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {
    assert(code != StatusCode::kOk);
  }
  static Status Ok() { return Status(); }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  // "kNotFound: table 'x' does not exist ..."
  std::string ToString() const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

Status InvalidArgument(std::string message);
Status NotFound(std::string message);
Status ConnectionError(std::string message);
Status TimeoutError(std::string message);
Status ResourceExhausted(std::string message);
Status DataCorruption(std::string message);
Status Internal(std::string message);

// A value or the reason why there is none. value() requires ok().
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {  // NOLINT: implicit by design
    assert(!status_.ok());
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & {
    assert(ok());
    return *value_;
  }
  const T& value() const& {
    assert(ok());
    return *value_;
  }
  T&& value() && {
    assert(ok());
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace ps

// Returns from the enclosing function when `expression` (a Status) is not ok.
#define PS_RETURN_IF_ERROR(expression)                                               \
  do {                                                                               \
    if (::ps::Status ps_status_ = (expression); !ps_status_.ok()) return ps_status_; \
  } while (false)

#define PS_CONCAT_INNER_(a, b) a##b
#define PS_CONCAT_(a, b) PS_CONCAT_INNER_(a, b)
// PS_ASSIGN_OR_RETURN(auto x, MakeX()): x = the value, or returns the status.
#define PS_ASSIGN_OR_RETURN(declaration, expression) \
  PS_ASSIGN_OR_RETURN_IMPL_(PS_CONCAT_(ps_result_, __LINE__), declaration, expression)
#define PS_ASSIGN_OR_RETURN_IMPL_(result, declaration, expression) \
  auto result = (expression);                                      \
  if (!result.ok()) return result.status();                        \
  declaration = std::move(result).value()
