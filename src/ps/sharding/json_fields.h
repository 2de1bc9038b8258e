#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "ps/base/status.h"
#include "ps/sharding/json.h"

namespace ps::sharding {

// Reading control messages and definitions: nothing here throws. Each getter names the field, what
// stands there and what is allowed (InvalidArgument).

// DataCorruption when `text` is not one JSON object, or nests deeper than limits::kJsonDepthMax.
Result<Json> ParseObject(std::string_view text);
// The text of a value; bytes that are not UTF-8 are replaced.
std::string Dump(const Json& value);

// Null when the object has no such field.
const Json* FindField(const Json& object, const char* field);
Result<std::string> GetString(const Json& object, const char* field);
Result<bool> GetBool(const Json& object, const char* field);
// A finite number in [min, max].
Result<double> GetNumber(const Json& object, const char* field,
                         double min = std::numeric_limits<double>::lowest(),
                         double max = std::numeric_limits<double>::max());
Result<std::uint64_t> GetUnsigned(const Json& object, const char* field,
                                  std::uint64_t max = std::numeric_limits<std::uint64_t>::max());
// Valid as long as `object`.
Result<const Json*> GetArray(const Json& object, const char* field, std::size_t size_max);
Result<const Json*> GetObject(const Json& object, const char* field);

}  // namespace ps::sharding
