#include "ps/client/push_checks.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "ps/client/finite.h"

namespace ps::client {
namespace {

Status CheckGradients(const RowsPush& push, const sharding::TableDefinition& table) {
  auto bad = FindNonFinite({push.grads, push.keys.size() * table.dim});
  if (!bad) return Status::Ok();
  return InvalidArgument(
      "table '" + table.name + "': the gradient at position (" + std::to_string(*bad / table.dim) +
      ", " + std::to_string(*bad % table.dim) + ") is " + std::to_string(push.grads[*bad]) +
      " (key " + std::to_string(push.keys[*bad / table.dim]) +
      "); only finite numbers are taken, and nothing was changed");
}

// Adding up finite gradients of a repeated key may leave the range of float32.
Status CheckSums(const KeyBatch& batch, const RowsPush& push, std::uint32_t dim,
                 const std::string& table) {
  std::vector<float> sum(dim);
  auto repeats = batch.repeats();
  for (std::size_t i = 0; i < repeats.size();) {
    std::uint32_t rank = repeats[i].rank;
    std::memcpy(sum.data(), push.grads + batch.source(rank) * dim, dim * sizeof(float));
    for (; i < repeats.size() && repeats[i].rank == rank; ++i) {
      const float* row = push.grads + std::size_t{repeats[i].input} * dim;
      for (std::uint32_t k = 0; k < dim; ++k) sum[k] += row[k];
    }
    float probe = 0;
    for (float value : sum) probe += value - value;  // NaN unless all are finite
    if (probe != 0) {
      return InvalidArgument("table '" + table + "': the gradients of key " +
                             std::to_string(batch.keys()[rank]) +
                             ", which occurs more than once, add up to an infinite value");
    }
  }
  return Status::Ok();
}

}  // namespace

Status CheckKeyCount(const sharding::TableDefinition& table, std::size_t count) {
  if (count <= KeyTable::kKeysMax) return Status::Ok();
  return InvalidArgument("table '" + table.name + "': " + std::to_string(count) +
                         " keys in one call, at most " + std::to_string(KeyTable::kKeysMax) +
                         "; make several calls");
}

Status CheckPush(const sharding::ClusterDefinition& definition, std::span<const RowsPush> rows,
                 std::span<const TensorPush> tensors, const PushOptions& push) {
  if (!std::isfinite(push.rate_scale) || push.rate_scale < 0) {
    return InvalidArgument("rate_scale = " + std::to_string(push.rate_scale) +
                           ": allowed is a finite number >= 0");
  }
  std::vector<bool> named(definition.tables.size());
  for (const RowsPush& row : rows) {
    const auto& table = definition.tables[row.table];
    if (named[row.table]) {
      return InvalidArgument("table '" + table.name +
                             "' is named twice in one push; join its keys and gradients (repeated "
                             "keys are summed), nothing was sent");
    }
    named[row.table] = true;
    PS_RETURN_IF_ERROR(CheckKeyCount(table, row.keys.size()));
  }
  for (const TensorPush& tensor : tensors) {
    const auto& defined = definition.tensors[tensor.tensor];
    if (tensor.values.size() != defined.floats()) {
      return InvalidArgument("dense weight '" + defined.name + "' has " +
                             std::to_string(defined.floats()) + " values, but " +
                             std::to_string(tensor.values.size()) + " were given");
    }
    if (auto bad = FindNonFinite(tensor.values)) {
      return InvalidArgument("dense weight '" + defined.name + "': value " + std::to_string(*bad) +
                             " (in C order) is " + std::to_string(tensor.values[*bad]) +
                             "; only finite numbers are taken, and nothing was sent");
    }
  }
  return Status::Ok();
}

Status CheckRows(const sharding::ClusterDefinition& definition, std::span<const RowsPush> rows,
                 std::span<const std::unique_ptr<KeyBatch>> batches) {
  for (const RowsPush& push : rows) {
    PS_RETURN_IF_ERROR(CheckGradients(push, definition.tables[push.table]));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& table = definition.tables[rows[i].table];
    PS_RETURN_IF_ERROR(CheckSums(*batches[i], rows[i], table.dim, table.name));
  }
  return Status::Ok();
}

}  // namespace ps::client
