#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <map>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "ps/base/hash.h"
#include "ps/store/embedding_store.h"

// What tests of embedding stores share.
namespace ps::store {

inline constexpr std::size_t kAll = 0;

inline TableSpec Spec(std::uint32_t dim, optimizers::OptimizerConfig optimizer = {"adagrad", {}}) {
  TableSpec spec;
  spec.name = "item";
  spec.dim = dim;
  spec.optimizer = std::move(optimizer);
  spec.initializer = {InitKind::kNormal, 0.1f};
  spec.seed = 42;
  return spec;
}

inline std::unique_ptr<EmbeddingStore> MakeStore(const TableSpec& spec, int partition_bits,
                                                 RowBudget* budget, const Clock* clock) {
  auto store = EmbeddingStore::Create(spec, partition_bits, budget, clock);
  EXPECT_TRUE(store.ok()) << store.status().ToString();
  return std::move(store).value();
}

struct RowCopy {
  float count;
  UnixDay last_day;
  std::vector<float> values;
  std::vector<float> state;

  bool operator==(const RowCopy&) const = default;
};

inline std::map<Key, RowCopy> AllRows(const EmbeddingStore& store, int partition_bits) {
  const std::size_t dim = store.spec().dim;
  const std::size_t state = store.optimizer().StateFloats(dim);
  std::map<Key, RowCopy> rows;
  for (PartitionId p = 0; p < 1u << partition_bits; ++p) {
    store.VisitPartition(p, [&](const RowHeader& h, const float* v, const float* s) {
      EXPECT_EQ(PartitionOf(HashKey(HashBytes(store.spec().name), h.key), partition_bits), p);
      EXPECT_TRUE(
          rows.emplace(h.key, RowCopy{h.count, h.last_day, {v, v + dim}, {s, s + state}}).second)
          << "visited twice: " << h.key;
    });
  }
  return rows;
}

class EmbeddingStoreTest : public testing::Test {
 protected:
  EmbeddingStoreTest() { clock_.SetToday(20'000); }

  std::vector<float> Gather(EmbeddingStore* store, const std::vector<Key>& keys, bool create) {
    std::size_t reserved = create ? store->CountMissing(keys) : 0;
    EXPECT_TRUE(budget_.TryReserve(reserved));
    std::vector<float> out(keys.size() * store->spec().dim, -7.0f);
    store->Gather(keys, nullptr, create, &reserved, out.data());
    EXPECT_EQ(reserved, 0u);
    return out;
  }
  void Push(EmbeddingStore* store, const std::vector<Key>& keys) {
    std::size_t reserved = store->CountMissing(keys);
    EXPECT_TRUE(budget_.TryReserve(reserved));
    const std::vector<float> grads(keys.size() * store->spec().dim, 0.5f);
    store->Apply(keys, nullptr, grads.data(), 1.0f, &reserved);
    EXPECT_EQ(reserved, 0u);
  }
  float Count(const EmbeddingStore& store, Key key) {
    const RowHeader* header = nullptr;
    const float* values = nullptr;
    return store.Find(key, &header, &values) ? header->count : -1.0f;
  }
  static std::vector<Key> Range(Key first, std::size_t n) {
    std::vector<Key> keys(n);
    std::iota(keys.begin(), keys.end(), first);
    return keys;
  }

  RowBudget budget_{0};
  ManualClock clock_;
};

}  // namespace ps::store
