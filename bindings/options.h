#pragma once

#include <string>

#include "bindings/status.h"
#include "ps/sharding/json_fields.h"

namespace ps::bindings {

// The options object in `text`, as deep as a control message may be. ConfigurationError naming
// `what` when there is none.
inline sharding::Json ParseOptionsObject(const char* what, const std::string& text) {
  Result<sharding::Json> object = sharding::ParseObject(text);
  if (object.ok()) return std::move(object).value();
  Throw(Status(StatusCode::kConfiguration, std::string(what) + ": " + object.status().message()));
}

}  // namespace ps::bindings
