#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ps {

// The candidate that `name` was probably meant to be (edit distance, ignoring case, at most a third
// of the longer name), or "" when none is near. For error messages: names and lists are short.
std::string NearestName(std::string_view name, std::span<const std::string_view> candidates);

}  // namespace ps
