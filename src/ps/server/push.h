#pragma once

#include "ps/server/data_request.h"

namespace ps::server {

// Serves a kPush: asks the ledger first, applies on the shards, answers after the last one.
// Returns as DataRequest::Start.
bool ServePush(const RequestPtr& request, DefinitionPtr definition, DataRequest::Release release);

}  // namespace ps::server
