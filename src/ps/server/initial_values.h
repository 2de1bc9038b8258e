#pragma once

#include <functional>
#include <vector>

#include "ps/base/random.h"
#include "ps/base/status.h"
#include "ps/server/core.h"

namespace ps::server {

// Initial values of one dense tensor.
struct TensorInit {
  TensorId id = 0;
  Initializer initializer;
};

// Gives the chunks that this server owns their initial values and a fresh optimizer state; `done`
// is called once, from any thread, when the copies have them as well. Ids must exist.
void AssignInitialValues(Core* core, const DefinitionPtr& definition,
                         const std::vector<TensorInit>& inits,
                         std::function<void(const Status&)> done);

}  // namespace ps::server
