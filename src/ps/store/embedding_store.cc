#include "ps/store/embedding_store.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <utility>

#include "ps/base/hash.h"
#include "ps/base/limits.h"
#include "ps/base/stream_row.h"
#include "ps/store/page_pool.h"
#include "ps/store/row_table.h"
#include "ps/store/row_visit.h"
#include "ps/store/sweeper.h"

namespace ps::store {
namespace {

constexpr int kPartitionBitsMax = 16;
static_assert(std::size_t{1} << kPartitionBitsMax == limits::kPartitionCountMax);

// Rows per call of the optimizer.
constexpr std::size_t kApplyBlock = 32;

std::size_t At(const std::uint32_t* positions, std::size_t i) {
  return positions == nullptr ? i : positions[i];
}

// Copies of a size known to the compiler become vector moves without a call.
template <std::size_t kDim>
void CopyValues(float* to, const float* from, std::size_t dim) {
  std::memcpy(to, from, (kDim == 0 ? dim : kDim) * sizeof(float));
}

Status CheckSpec(const TableSpec& spec, int partition_bits) {
  const auto wrong = [&](std::string what) {
    return InvalidArgument("table '" + spec.name + "': " + std::move(what));
  };
  if (spec.name.empty() || spec.name.size() > limits::kTableNameCharsMax * 4) {
    return wrong("the name must have 1 to " + std::to_string(limits::kTableNameCharsMax) +
                 " characters");
  }
  if (spec.dim < 1 || spec.dim > limits::kEmbeddingDimMax) {
    return wrong("dim is " + std::to_string(spec.dim) + ", must be 1 to " +
                 std::to_string(limits::kEmbeddingDimMax));
  }
  if (!std::isfinite(spec.initializer.scale) || spec.initializer.scale < 0) {
    return wrong("the initial scale is " + std::to_string(spec.initializer.scale) +
                 ", must be finite and not negative");
  }
  if (partition_bits < 0 || partition_bits > kPartitionBitsMax) {
    return wrong("partition_bits is " + std::to_string(partition_bits) + ", must be 0 to " +
                 std::to_string(kPartitionBitsMax));
  }
  return Status::Ok();
}

class PartitionedStore final : public EmbeddingStore {
 public:
  PartitionedStore(TableSpec spec, std::unique_ptr<optimizers::Optimizer> optimizer,
                   int partition_bits, RowBudget* budget, const Clock* clock,
                   std::shared_ptr<PagePool> pool)
      : spec_(std::move(spec)),
        optimizer_(std::move(optimizer)),
        budget_(budget),
        clock_(clock),
        salt_(HashBytes(spec_.name)),
        dim_(spec_.dim),
        state_floats_(optimizer_->StateFloats(dim_)),
        table_(std::move(pool), salt_, partition_bits, RowStrideBytes(dim_, state_floats_)) {}
  ~PartitionedStore() override { budget_->Return(table_.rows()); }

  const TableSpec& spec() const override { return spec_; }
  const optimizers::Optimizer& optimizer() const override { return *optimizer_; }

  std::size_t CountMissing(std::span<const Key> keys) const override;
  void Gather(std::span<const Key> keys, const std::uint32_t* positions, bool create,
              std::size_t* reserved, float* out, Stores stores) override;
  void Apply(std::span<const Key> keys, const std::uint32_t* positions, const float* grads,
             float rate_scale, std::size_t* reserved, const LocatedRows* located) override;
  LocatedRows Locate(std::span<const Key> keys) const override;
  void Set(Key key, std::span<const float> values, float count, UnixDay last_day,
           std::span<const float> state, std::size_t* reserved) override;
  void MakeRoom(PartitionId partition, std::size_t rows) override {
    table_.MakeRoom(partition, rows);
  }
  bool Find(Key key, const RowHeader** header, const float** values) const override;
  bool Remove(Key key) override;
  bool DecayStep(float factor, std::size_t rows_max) override;
  bool PruneStep(float min_count, std::size_t rows_max, std::uint64_t* pruned) override;
  void Clear() override;
  TableStats Stats() const override;
  void ChargeTo(RowBudget* budget) override;
  std::size_t RowsIn(PartitionId partition) const override {
    return table_.chain(table_.SegmentOf(partition)).rows();
  }
  void VisitPartition(
      PartitionId partition,
      const std::function<void(const RowHeader&, const float*, const float*)>& fn) const override;

 private:
  template <std::size_t kDim>
  void GatherDim(std::span<const Key> keys, const std::uint32_t* positions, bool create,
                 std::size_t* reserved, float* out, bool streamed);
  // A row with count 1, initial values and fresh state; null when nothing is reserved.
  RowHeader* Create(Key key, std::uint64_t hash, UnixDay today, std::size_t* reserved);
  // The same without values and state.
  RowHeader* CreateBare(Key key, std::uint64_t hash, std::size_t* reserved);
  std::span<float> State(RowHeader* header) const { return {Values(header) + dim_, state_floats_}; }
  std::size_t values_bytes() const { return sizeof(RowHeader) + dim_ * sizeof(float); }

  const TableSpec spec_;
  const std::unique_ptr<optimizers::Optimizer> optimizer_;
  RowBudget* budget_;
  const Clock* const clock_;
  const std::uint64_t salt_;
  const std::size_t dim_;
  const std::size_t state_floats_;
  RowTable table_;
  Sweeper sweeper_;
  std::uint64_t created_total_ = 0;
  std::uint64_t pruned_total_ = 0;
  mutable std::vector<std::uint32_t> missing_;  // scratch of the batch calls
};

std::size_t PartitionedStore::CountMissing(std::span<const Key> keys) const {
  missing_.clear();
  VisitRows(table_, keys, RowPrefetch(sizeof(RowHeader)), &missing_,
            [](std::size_t, const RowHeader*) {});
  std::vector<Key> missing(missing_.size());
  std::transform(missing_.begin(), missing_.end(), missing.begin(),
                 [keys](std::uint32_t i) { return keys[i]; });
  std::sort(missing.begin(), missing.end());
  return static_cast<std::size_t>(std::unique(missing.begin(), missing.end()) - missing.begin());
}

void PartitionedStore::Gather(std::span<const Key> keys, const std::uint32_t* positions,
                              bool create, std::size_t* reserved, float* out, Stores stores) {
  const bool streamed = stores == Stores::kStreamed && CanStream(out, dim_);
  switch (dim_) {
    case 4:
      return GatherDim<4>(keys, positions, create, reserved, out, streamed);
    case 8:
      return GatherDim<8>(keys, positions, create, reserved, out, streamed);
    case 16:
      return GatherDim<16>(keys, positions, create, reserved, out, streamed);
    case 32:
      return GatherDim<32>(keys, positions, create, reserved, out, streamed);
    case 64:
      return GatherDim<64>(keys, positions, create, reserved, out, streamed);
    default:
      return GatherDim<0>(keys, positions, create, reserved, out, streamed);
  }
}

template <std::size_t kDim>
void PartitionedStore::GatherDim(std::span<const Key> keys, const std::uint32_t* positions,
                                 bool create, std::size_t* reserved, float* out, bool streamed) {
  const std::size_t dim = kDim == 0 ? dim_ : kDim;
  const RowPrefetch prefetch(values_bytes());
  missing_.clear();
  VisitRows(table_, keys, prefetch, &missing_, [=](std::size_t i, const RowHeader* header) {
    float* to = out + At(positions, i) * dim;
    if (streamed) {
      StreamRow(to, Values(header), dim);
    } else {
      CopyValues<kDim>(to, Values(header), dim);
    }
  });
  if (streamed) StreamFence();
  if (missing_.empty()) return;
  const UnixDay today = clock_->Today();
  VisitMissing(table_, keys, &missing_,
               [&](std::size_t i, std::uint64_t hash, const RowHeader* header) {
                 if (header == nullptr && create) header = Create(keys[i], hash, today, reserved);
                 float* to = out + At(positions, i) * dim;
                 if (header != nullptr) {
                   CopyValues<kDim>(to, Values(header), dim);
                 } else {
                   std::fill_n(to, dim, 0.0f);
                 }
               });
}

LocatedRows PartitionedStore::Locate(std::span<const Key> keys) const {
  LocatedRows located{std::make_unique<RowHeader*[]>(keys.size()), table_.epoch()};
  missing_.clear();
  VisitRows(table_, keys, RowPrefetch(sizeof(RowHeader)), &missing_,
            [&](std::size_t i, RowHeader* header) { located.rows[i] = header; });
  return located;
}

void PartitionedStore::Apply(std::span<const Key> keys, const std::uint32_t* positions,
                             const float* grads, float rate_scale, std::size_t* reserved,
                             const LocatedRows* located) {
  const RowPrefetch prefetch(values_bytes() + state_floats_ * sizeof(float));
  const UnixDay today = clock_->Today();
  std::array<float*, kApplyBlock> block_rows;
  std::array<const float*, kApplyBlock> block_grads;
  std::size_t block = 0;
  const auto flush = [&] {
    optimizer_->Apply(block_rows.data(), block_grads.data(), block, dim_, rate_scale);
    block = 0;
  };
  const auto push = [&](std::size_t i, RowHeader* header) {
    header->count += 1.0f;
    header->last_day = today;
    block_rows[block] = Values(header);
    block_grads[block] = grads + At(positions, i) * dim_;
    if (++block == kApplyBlock) flush();
  };
  missing_.clear();
  if (located != nullptr && located->epoch == table_.epoch()) {
    VisitLocated(std::span<RowHeader* const>(located->rows.get(), keys.size()), prefetch, &missing_,
                 push);
  } else {
    VisitRows(table_, keys, prefetch, &missing_, push);
  }
  VisitMissing(table_, keys, &missing_, [&](std::size_t i, std::uint64_t hash, RowHeader* header) {
    if (header == nullptr) header = Create(keys[i], hash, today, reserved);
    if (header != nullptr) push(i, header);
  });
  if (block > 0) flush();
}

RowHeader* PartitionedStore::CreateBare(Key key, std::uint64_t hash, std::size_t* reserved) {
  assert(reserved != nullptr && *reserved > 0);
  if (reserved == nullptr || *reserved == 0) return nullptr;
  --*reserved;
  ++created_total_;
  return table_.Create(key, hash);
}

RowHeader* PartitionedStore::Create(Key key, std::uint64_t hash, UnixDay today,
                                    std::size_t* reserved) {
  RowHeader* header = CreateBare(key, hash, reserved);
  if (header == nullptr) return nullptr;
  header->count = 1.0f;
  header->last_day = today;
  const std::span<float> values(Values(header), dim_);
  FillInitial(spec_.initializer, spec_.seed, salt_, key, 0, values);
  optimizer_->InitState(values, State(header));
  return header;
}

void PartitionedStore::Set(Key key, std::span<const float> values, float count, UnixDay last_day,
                           std::span<const float> state, std::size_t* reserved) {
  assert(values.size() == dim_);
  assert(state.empty() || state.size() == state_floats_);
  const std::uint64_t hash = table_.Hash(key);
  RowHeader* header = table_.Find(key, hash);
  if (header == nullptr) header = CreateBare(key, hash, reserved);
  if (header == nullptr) return;
  header->count = count >= 0.0f ? count : 0.0f;  // NaN too: its bits may mean "free"
  header->last_day = last_day;
  std::copy(values.begin(), values.end(), Values(header));
  if (state.empty()) {
    optimizer_->InitState(values, State(header));
  } else {
    std::copy(state.begin(), state.end(), State(header).begin());
  }
}

bool PartitionedStore::Find(Key key, const RowHeader** header, const float** values) const {
  const RowHeader* found = table_.Find(key);
  if (found == nullptr) return false;
  *header = found;
  *values = Values(found);
  return true;
}

bool PartitionedStore::Remove(Key key) {
  if (!table_.Remove(key)) return false;
  budget_->Return(1);
  return true;
}

bool PartitionedStore::DecayStep(float factor, std::size_t rows_max) {
  return sweeper_.Decay(&table_, *optimizer_, dim_, factor, rows_max);
}

bool PartitionedStore::PruneStep(float min_count, std::size_t rows_max, std::uint64_t* pruned) {
  std::uint64_t rows = 0;
  const bool round = sweeper_.Prune(&table_, min_count, rows_max, &rows);
  budget_->Return(rows);
  pruned_total_ += rows;
  *pruned += rows;
  return round;
}

void PartitionedStore::Clear() {
  budget_->Return(table_.rows());
  table_.Clear();
  sweeper_.Restart();
}

void PartitionedStore::ChargeTo(RowBudget* budget) {
  budget->Take(table_.rows());
  budget_->Return(table_.rows());
  budget_ = budget;
}

TableStats PartitionedStore::Stats() const {
  TableStats stats;
  stats.rows = table_.rows();
  stats.created_total = created_total_;
  stats.pruned_total = pruned_total_;
  stats.values_bytes = stats.rows * values_bytes();
  stats.state_bytes = stats.rows * state_floats_ * sizeof(float);
  stats.index_bytes = table_.memory_bytes() - stats.values_bytes - stats.state_bytes;
  return stats;
}

void PartitionedStore::VisitPartition(
    PartitionId partition,
    const std::function<void(const RowHeader&, const float*, const float*)>& fn) const {
  table_.chain(table_.SegmentOf(partition))
      .ForEachLive(table_.arena(), [&](RowNumber, const RowHeader* header) {
        fn(*header, Values(header), Values(header) + dim_);
      });
}

}  // namespace

Result<std::unique_ptr<EmbeddingStore>> EmbeddingStore::Create(TableSpec spec, int partition_bits,
                                                               RowBudget* budget,
                                                               const Clock* clock,
                                                               std::shared_ptr<PagePool> pool) {
  PS_RETURN_IF_ERROR(CheckSpec(spec, partition_bits));
  PS_ASSIGN_OR_RETURN(std::unique_ptr<optimizers::Optimizer> optimizer,
                      optimizers::Optimizer::Create(spec.optimizer));
  const std::size_t stride = RowStrideBytes(spec.dim, optimizer->StateFloats(spec.dim));
  if (stride > PagePool::kPageBytes) {
    return InvalidArgument("table '" + spec.name + "': a row of " + std::to_string(stride) +
                           " bytes does not fit a page of " + std::to_string(PagePool::kPageBytes));
  }
  if (pool == nullptr) pool = std::make_shared<PagePool>();
  return Result<std::unique_ptr<EmbeddingStore>>(std::make_unique<PartitionedStore>(
      std::move(spec), std::move(optimizer), partition_bits, budget, clock, std::move(pool)));
}

}  // namespace ps::store
