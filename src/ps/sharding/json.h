#pragma once

#include <nlohmann/json_fwd.hpp>

namespace ps::sharding {

// For headers: the name alone. Who reads or makes JSON includes json_fields.h, three seconds to
// compile.
using Json = nlohmann::json;

}  // namespace ps::sharding
