#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "ps/client/client.h"
#include "ps/client/key_batch.h"
#include "ps/sharding/cluster_definition.h"

namespace ps::client {

// What the client refuses itself: InvalidArgument that names table or weight, place and value.

Status CheckKeyCount(const sharding::TableDefinition& table, std::size_t count);

// All that can be said of a push before it is begun. The gradients of rows are looked at on their
// way out (fan_out.h).
Status CheckPush(const sharding::ClusterDefinition& definition, std::span<const RowsPush> rows,
                 std::span<const TensorPush> tensors, const PushOptions& push);

// Which gradient, or sum of gradients of a repeated key, kept a push from being sent to its end; Ok
// when it was something else. `batches`: of `rows`, in their order.
Status CheckRows(const sharding::ClusterDefinition& definition, std::span<const RowsPush> rows,
                 std::span<const std::unique_ptr<KeyBatch>> batches);

}  // namespace ps::client
