#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// NULL_KEY, hash_strings, hash_bytes, hash_objects, unique.
void BindKeys(nanobind::module_& module);

}  // namespace ps::bindings
