#pragma once

// The rows that the benchmarks of the store work on: `PS_BENCH_ROWS` of them (4,000,000; the bars
// are for 20,000,000), dim 16, Adagrad, in two shards of ours and, when asked for, in libcuckoo.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "bench/cuckoo_table.h"
#include "bench/huge_pages.h"
#include "bench/statistics.h"
#include "bench/turns.h"
#include "bench/zipf.h"
#include "ps/base/clock.h"
#include "ps/base/hash.h"
#include "ps/store/embedding_store.h"
#include "ps/store/page_pool.h"

namespace ps::bench {

using store::EmbeddingStore;

inline constexpr std::size_t kBatchKeys = 106'496;
inline constexpr int kPartitionBits = 12;
inline constexpr int kShards = 2;
inline constexpr std::size_t kBatches = 24;
inline constexpr std::size_t kBatchesPerTurn = 4;
inline constexpr double kZipfExponent = 1.05;

inline std::size_t RowsOfTable() {
  const char* rows = std::getenv("PS_BENCH_ROWS");
  return rows == nullptr ? 4'000'000 : std::strtoull(rows, nullptr, 10);
}

inline Key KeyOfRank(std::uint64_t rank) { return Mix64(rank ^ 0x5bd1e995u); }

// One shard's share of a batch.
struct ShardBatch {
  std::vector<Key> keys;
  std::vector<const float*> rows;  // known addresses of the keys' values
};
using Batch = std::array<ShardBatch, kShards>;

inline int ShardOf(const EmbeddingStore& store, Key key) {
  const std::uint64_t hash = HashKey(HashBytes(store.spec().name), key);
  return static_cast<int>(PartitionOf(hash, kPartitionBits) % kShards);
}

// The same rows in two shards of ours and in libcuckoo.
class World {
 public:
  explicit World(std::size_t rows, bool with_cuckoo = true) : rows_(rows) {
    store::TableSpec spec;
    spec.name = "bench";
    spec.dim = kDim;
    spec.optimizer = {"adagrad", {{"learning_rate", kRate}}};
    for (int s = 0; s < kShards; ++s) {
      pools_[s] = std::make_shared<store::PagePool>();
      shards_[s] =
          EmbeddingStore::Create(spec, kPartitionBits, &budget_, &Clock::System(), pools_[s])
              .value();
    }
    create_seconds_ = Seconds([&] { Fill(); });
    if (with_cuckoo) FillCuckoo();
    for (auto& out : outs_) out.resize(kBatchKeys * kDim);
    for (auto& grads : grads_) grads.assign(kBatchKeys * kDim, 0.001f);
  }

  std::size_t rows() const { return rows_; }
  EmbeddingStore& shard(int s) { return *shards_[s]; }
  CuckooTable& values() { return *values_; }
  CuckooTable& states() { return *states_; }
  float* out(int s) { return outs_[s].data(); }
  const float* grads(int s) const { return grads_[s].data(); }

  // `distinct`: each key of a batch once, as a push carries them.
  std::vector<Batch> Batches(bool zipf, bool distinct) {
    std::mt19937_64 random(zipf ? 11 : 12);
    const Zipf rank(static_cast<double>(rows_), kZipfExponent);
    std::vector<Batch> batches(kBatches);
    for (Batch& batch : batches) {
      std::unordered_set<Key> seen;
      for (std::size_t i = 0; i < kBatchKeys; ++i) {
        const Key key = KeyOfRank(zipf ? rank(random) : random() % rows_);
        if (distinct && !seen.insert(key).second) continue;
        ShardBatch& share = batch[ShardOf(*shards_[0], key)];
        const store::RowHeader* header;
        const float* values;
        if (!shards_[ShardOf(*shards_[0], key)]->Find(key, &header, &values)) std::abort();
        share.keys.push_back(key);
        share.rows.push_back(values);
      }
    }
    return batches;
  }

  // What the rows take beyond values and state, and how fast they were made.
  void ReportSizes() const {
    double table = 0;
    double pages = 0;
    for (int s = 0; s < kShards; ++s) {
      const store::TableStats stats = shards_[s]->Stats();
      table += static_cast<double>(stats.values_bytes + stats.state_bytes + stats.index_bytes);
      pages += static_cast<double>(pools_[s]->held_bytes());
    }
    const auto beyond = [this](double bytes) {
      return bytes / static_cast<double>(rows_) - 2 * kDim * sizeof(float);
    };
    char measured[64];
    std::snprintf(measured, sizeof(measured), "%.1f (by pages held %.1f)", beyond(table),
                  beyond(pages));
    Bar("bytes a row beyond values and state, " + std::to_string(rows_) + " rows", measured, "32",
        "24");
    std::printf("rows created at %.2f M/s by one thread\n",
                static_cast<double>(rows_) / create_seconds_ / 1e6);
  }

 private:
  void Fill() {
    std::array<std::vector<Key>, kShards> keys;
    std::vector<float> out(kBatchKeys * kDim);
    for (std::size_t rank = 0; rank < rows_; ++rank) {
      const Key key = KeyOfRank(rank);
      const int s = ShardOf(*shards_[0], key);
      keys[s].push_back(key);
      if (keys[s].size() == kBatchKeys) Create(s, &keys[s], out.data());
    }
    for (int s = 0; s < kShards; ++s) Create(s, &keys[s], out.data());
  }
  void Create(int s, std::vector<Key>* keys, float* out) {
    std::size_t reserved = keys->size();
    budget_.TryReserve(reserved);
    shards_[s]->Gather(*keys, nullptr, true, &reserved, out);
    keys->clear();
  }
  void FillCuckoo() {
    values_ = std::make_unique<CuckooTable>(rows_);
    states_ = std::make_unique<CuckooTable>(rows_);
    Floats state;
    state.fill(0.1f);
    Floats values;
    values.fill(0.01f);
    for (std::size_t rank = 0; rank < rows_; ++rank) {
      values_->insert(KeyOfRank(rank), values);
      states_->insert(KeyOfRank(rank), state);
    }
  }
  const std::size_t rows_;
  store::RowBudget budget_{0};
  std::array<std::shared_ptr<store::PagePool>, kShards> pools_;
  std::array<std::unique_ptr<EmbeddingStore>, kShards> shards_;
  std::unique_ptr<CuckooTable> values_;
  std::unique_ptr<CuckooTable> states_;
  std::array<HugeVector<float>, kShards> outs_;
  std::array<HugeVector<float>, kShards> grads_;
  double create_seconds_ = 0;
};

}  // namespace ps::bench
