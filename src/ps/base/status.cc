#include "ps/base/status.h"

namespace ps {

std::string_view StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "kOk";
    case StatusCode::kInvalidArgument:
      return "kInvalidArgument";
    case StatusCode::kConfiguration:
      return "kConfiguration";
    case StatusCode::kNotFound:
      return "kNotFound";
    case StatusCode::kConnection:
      return "kConnection";
    case StatusCode::kAuthentication:
      return "kAuthentication";
    case StatusCode::kTimeout:
      return "kTimeout";
    case StatusCode::kResourceExhausted:
      return "kResourceExhausted";
    case StatusCode::kDataCorruption:
      return "kDataCorruption";
    case StatusCode::kStorage:
      return "kStorage";
    case StatusCode::kClosed:
      return "kClosed";
    case StatusCode::kInternal:
      return "kInternal";
  }
  return "unknown status code";  // a number from the wire that this version does not know
}

std::string Status::ToString() const {
  std::string text(StatusCodeName(code_));
  if (!message_.empty()) text.append(": ").append(message_);
  return text;
}

Status InvalidArgument(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}
Status NotFound(std::string message) { return Status(StatusCode::kNotFound, std::move(message)); }
Status ConnectionError(std::string message) {
  return Status(StatusCode::kConnection, std::move(message));
}
Status TimeoutError(std::string message) {
  return Status(StatusCode::kTimeout, std::move(message));
}
Status ResourceExhausted(std::string message) {
  return Status(StatusCode::kResourceExhausted, std::move(message));
}
Status DataCorruption(std::string message) {
  return Status(StatusCode::kDataCorruption, std::move(message));
}
Status Internal(std::string message) { return Status(StatusCode::kInternal, std::move(message)); }

}  // namespace ps
