#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "ps/server/server.h"

namespace ps::bindings {

// Checkpoints, RecordStream and Load.
void BindCheckpoint(nanobind::module_& module);

// A Checkpoints of this server.
nanobind::object MakeCheckpoints(std::shared_ptr<server::Server> server);

}  // namespace ps::bindings
