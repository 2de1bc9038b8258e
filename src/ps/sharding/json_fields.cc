#include "ps/sharding/json_fields.h"

#include <cmath>

#include "ps/base/limits.h"

namespace ps::sharding {
namespace {

constexpr std::size_t kShownCharsMax = 80;

Status Wrong(const Json& object, const char* field, const std::string& allowed) {
  const Json* found = FindField(object, field);
  std::string shown = found == nullptr ? "missing" : Dump(*found).substr(0, kShownCharsMax);
  return InvalidArgument("field '" + std::string(field) + "' is " + shown + ", expected " +
                         allowed);
}

// Before the parser sees it: copying and writing a value take a stack frame for each level.
bool IsDeeperThan(std::string_view text, std::size_t depth_max) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > depth_max) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

std::string Text(double value) { return Dump(Json(value)); }

}  // namespace

Result<Json> ParseObject(std::string_view text) {
  if (IsDeeperThan(text, limits::kJsonDepthMax)) {
    return DataCorruption("JSON nested deeper than " + std::to_string(limits::kJsonDepthMax) +
                          " levels");
  }
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return DataCorruption("not valid JSON");
  if (!value.is_object()) return DataCorruption("not a JSON object");
  return value;
}

std::string Dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const Json* FindField(const Json& object, const char* field) {
  if (!object.is_object()) return nullptr;
  auto found = object.find(field);
  return found == object.end() ? nullptr : &*found;
}

Result<std::string> GetString(const Json& object, const char* field) {
  const Json* found = FindField(object, field);
  if (found == nullptr || !found->is_string()) return Wrong(object, field, "a string");
  return found->get<std::string>();
}

Result<bool> GetBool(const Json& object, const char* field) {
  const Json* found = FindField(object, field);
  if (found == nullptr || !found->is_boolean()) return Wrong(object, field, "true or false");
  return found->get<bool>();
}

Result<double> GetNumber(const Json& object, const char* field, double min, double max) {
  const Json* found = FindField(object, field);
  if (found != nullptr && found->is_number()) {
    auto value = found->get<double>();
    if (std::isfinite(value) && value >= min && value <= max) return value;
  }
  return Wrong(object, field, "a finite number from " + Text(min) + " to " + Text(max));
}

Result<std::uint64_t> GetUnsigned(const Json& object, const char* field, std::uint64_t max) {
  const Json* found = FindField(object, field);
  if (found != nullptr && found->is_number_unsigned()) {
    auto value = found->get<std::uint64_t>();
    if (value <= max) return value;
  }
  return Wrong(object, field, "a whole number from 0 to " + std::to_string(max));
}

Result<const Json*> GetArray(const Json& object, const char* field, std::size_t size_max) {
  const Json* found = FindField(object, field);
  if (found == nullptr || !found->is_array() || found->size() > size_max) {
    return Wrong(object, field, "a list of at most " + std::to_string(size_max));
  }
  return found;
}

Result<const Json*> GetObject(const Json& object, const char* field) {
  const Json* found = FindField(object, field);
  if (found == nullptr || !found->is_object()) return Wrong(object, field, "an object");
  return found;
}

}  // namespace ps::sharding
