#pragma once

#include "ps/server/data_request.h"

namespace ps::server {

// Serves a kPull: each shard gathers straight into the reply at its keys' positions, the last one
// sends. Returns as DataRequest::Start.
bool ServePull(const RequestPtr& request, DefinitionPtr definition, DataRequest::Release release);

}  // namespace ps::server
