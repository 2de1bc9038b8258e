#pragma once

#include "ps/server/data_request.h"

namespace ps::server {

// Serves a kReplicate: takes chunks over as they are on the server that sends them, passes them on
// to the next server of the chain, and answers when that one has answered. The number that the
// change carries is then done in the ledger of its home (Core::LedgerOf), so that a retry that
// comes here, after the sender was lost, changes nothing.
void ServeReplicate(const RequestPtr& request, DefinitionPtr definition);

}  // namespace ps::server
