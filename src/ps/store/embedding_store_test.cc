#include "ps/store/embedding_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "ps/base/hash.h"
#include "ps/base/limits.h"
#include "ps/store/page_pool.h"

namespace ps::store {
namespace {

using optimizers::Optimizer;
using optimizers::OptimizerConfig;

constexpr std::size_t kAll = 0;

TableSpec Spec(std::uint32_t dim, OptimizerConfig optimizer = {"adagrad", {}}) {
  TableSpec spec;
  spec.name = "item";
  spec.dim = dim;
  spec.optimizer = std::move(optimizer);
  spec.initializer = {InitKind::kNormal, 0.1f};
  spec.seed = 42;
  return spec;
}

std::unique_ptr<EmbeddingStore> MakeStore(const TableSpec& spec, int partition_bits,
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

std::map<Key, RowCopy> AllRows(const EmbeddingStore& store, int partition_bits) {
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

// What the store promises, by the simplest means.
class Model {
 public:
  Model(const TableSpec& spec, const Optimizer* optimizer)
      : spec_(spec), optimizer_(optimizer), state_floats_(optimizer->StateFloats(spec.dim)) {}

  std::map<Key, RowCopy> Rows() const {
    std::map<Key, RowCopy> rows;
    for (const auto& [key, row] : rows_) {
      rows[key] = RowCopy{row.count,
                          row.last_day,
                          {row.floats.begin(), row.floats.begin() + spec_.dim},
                          {row.floats.begin() + spec_.dim, row.floats.end()}};
    }
    return rows;
  }
  bool Has(Key key) const { return rows_.contains(key); }
  std::size_t size() const { return rows_.size(); }
  std::size_t CountMissing(const std::vector<Key>& keys) const {
    std::set<Key> missing;
    for (Key key : keys) {
      if (!Has(key)) missing.insert(key);
    }
    return missing.size();
  }
  std::vector<float> Get(Key key, bool create, UnixDay today) {
    if (!Has(key) && !create) return std::vector<float>(spec_.dim, 0.0f);
    const Row& row = At(key, today);
    return {row.floats.begin(), row.floats.begin() + spec_.dim};
  }
  void Push(Key key, const float* grad, float rate_scale, UnixDay today) {
    Row& row = At(key, today);
    row.count += 1;
    row.last_day = today;
    float* values = row.floats.data();
    optimizer_->Apply(&values, &grad, 1, spec_.dim, rate_scale);
  }
  void Set(Key key, const std::vector<float>& values, float count, UnixDay day,
           const std::vector<float>& state) {
    Row& row = rows_[key];
    row.count = count;
    row.last_day = day;
    row.floats = values;
    row.floats.resize(spec_.dim + state_floats_);
    if (state.empty()) {
      InitState(&row);
    } else {
      std::copy(state.begin(), state.end(), row.floats.begin() + spec_.dim);
    }
  }
  bool Remove(Key key) { return rows_.erase(key) > 0; }
  void Decay(float factor) {
    for (auto& [key, row] : rows_) {
      row.count *= factor;
      float* values = row.floats.data();
      optimizer_->Decay(&values, 1, spec_.dim, factor);
    }
  }
  std::size_t Prune(float min_count) {
    return std::erase_if(rows_, [&](const auto& entry) { return entry.second.count < min_count; });
  }
  void Clear() { rows_.clear(); }

 private:
  struct Row {
    float count;
    UnixDay last_day;
    std::vector<float> floats;
  };
  void InitState(Row* row) {
    const std::span<float> floats(row->floats);
    optimizer_->InitState(floats.first(spec_.dim), floats.subspan(spec_.dim));
  }
  Row& At(Key key, UnixDay today) {
    auto [it, made] = rows_.try_emplace(key);
    if (made) {
      it->second = Row{1.0f, today, std::vector<float>(spec_.dim + state_floats_)};
      FillInitial(spec_.initializer, spec_.seed, HashBytes(spec_.name), key, 0,
                  std::span<float>(it->second.floats).first(spec_.dim));
      InitState(&it->second);
    }
    return it->second;
  }

  const TableSpec spec_;
  const Optimizer* const optimizer_;
  const std::size_t state_floats_;
  std::unordered_map<Key, Row> rows_;
};

// ---- random sequences of operations against the model ----

struct SequenceCase {
  std::uint32_t dim;
  OptimizerConfig optimizer;
  int partition_bits;
};

std::string CaseName(const testing::TestParamInfo<SequenceCase>& info) {
  return info.param.optimizer.name + (info.param.optimizer.params.empty() ? "" : "2") + "Dim" +
         std::to_string(info.param.dim) + "Bits" + std::to_string(info.param.partition_bits);
}

class SequenceTest : public testing::TestWithParam<SequenceCase> {
 protected:
  static constexpr std::uint64_t kRowsMax = 2'500;

  SequenceTest()
      : spec_(Spec(GetParam().dim, GetParam().optimizer)),
        store_(MakeStore(spec_, GetParam().partition_bits, &budget_, &clock_)),
        model_(spec_, &store_->optimizer()) {}

  std::vector<Key> Keys(std::size_t max, bool distinct) {
    std::vector<Key> keys(random_() % (max + 1));
    // Mostly from a small world, so that keys come again.
    for (Key& key : keys) key = random_() % 16 == 0 ? random_() : random_() % key_range_;
    if (distinct) {
      std::sort(keys.begin(), keys.end());
      keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
      std::shuffle(keys.begin(), keys.end(), random_);
    }
    return keys;
  }
  std::vector<std::uint32_t> Positions(std::size_t n) {
    std::vector<std::uint32_t> positions(n);
    std::iota(positions.begin(), positions.end(), 0u);
    std::shuffle(positions.begin(), positions.end(), random_);
    return positions;
  }
  std::vector<float> Floats(std::size_t n) {
    std::vector<float> floats(n);
    for (float& f : floats) f = static_cast<float>(random_() % 2001) / 1000.0f - 1.0f;
    return floats;
  }
  // As a server does: false when the budget has no room.
  bool Reserve(const std::vector<Key>& keys, std::size_t* reserved) {
    const std::size_t missing = store_->CountMissing(keys);
    EXPECT_EQ(missing, model_.CountMissing(keys));
    *reserved = missing;
    return budget_.TryReserve(missing);
  }

  void Gather() {
    const std::vector<Key> keys = Keys(200, false);
    const bool create = random_() % 4 != 0;
    const auto positions = Positions(keys.size());
    const bool positioned = random_() % 2 == 0;
    std::size_t reserved = 0;
    if (create && !Reserve(keys, &reserved)) return;
    std::vector<float> out(keys.size() * spec_.dim, -7.0f);
    store_->Gather(keys, positioned ? positions.data() : nullptr, create, &reserved, out.data());
    ASSERT_EQ(reserved, 0u);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto at = out.begin() + (positioned ? positions[i] : i) * spec_.dim;
      ASSERT_EQ(std::vector<float>(at, at + spec_.dim),
                model_.Get(keys[i], create, clock_.Today()));
    }
  }
  void Apply() {
    const std::vector<Key> keys = Keys(200, true);
    const auto positions = Positions(keys.size());
    const bool positioned = random_() % 2 == 0;
    std::size_t reserved = 0;
    if (!Reserve(keys, &reserved)) return;
    const std::vector<float> grads = Floats(keys.size() * spec_.dim);
    const float rate_scale = random_() % 2 == 0 ? 1.0f : 0.5f;
    store_->Apply(keys, positioned ? positions.data() : nullptr, grads.data(), rate_scale,
                  &reserved);
    ASSERT_EQ(reserved, 0u);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::size_t at = (positioned ? positions[i] : i) * spec_.dim;
      model_.Push(keys[i], grads.data() + at, rate_scale, clock_.Today());
    }
  }
  void SetOne() {
    const Key key = random_() % key_range_;
    std::size_t reserved = 0;
    if (!Reserve({key}, &reserved)) return;
    const auto values = Floats(spec_.dim);
    std::vector<float> state;
    if (random_() % 2 == 0) {
      state = Floats(store_->optimizer().StateFloats(spec_.dim));
      for (float& s : state) s = std::abs(s);
    }
    const auto count = static_cast<float>(random_() % 9);
    store_->Set(key, values, count, 77, state, &reserved);
    model_.Set(key, values, count, 77, state);
    ASSERT_EQ(reserved, 0u);
  }
  void Sweep() {
    const std::size_t rows_max = random_() % 2 == 0 ? kAll : random_() % 100 + 1;
    if (random_() % 2 == 0) {
      while (!store_->DecayStep(0.75f, rows_max)) {
      }
      model_.Decay(0.75f);
    } else {
      const auto min_count = static_cast<float>(random_() % 30) / 10.0f;
      std::uint64_t pruned = 0;
      while (!store_->PruneStep(min_count, rows_max, &pruned)) {
      }
      ASSERT_EQ(pruned, model_.Prune(min_count));
      pruned_ += pruned;
    }
  }
  void Step() {
    const std::uint64_t what = random_() % 100;
    if (what < 40) {
      Gather();
    } else if (what < 80) {
      Apply();
    } else if (what < 88) {
      SetOne();
    } else if (what < 96) {
      const Key key = random_() % key_range_;
      ASSERT_EQ(store_->Remove(key), model_.Remove(key));
    } else if (what < 99) {
      Sweep();
    } else if (random_() % 8 == 0) {
      store_->Clear();
      model_.Clear();
    }
  }

  static constexpr Key key_range_ = 1'500;
  RowBudget budget_{kRowsMax};
  ManualClock clock_;
  std::mt19937_64 random_{20'240'601};
  TableSpec spec_;
  std::unique_ptr<EmbeddingStore> store_;
  Model model_;
  std::uint64_t pruned_ = 0;
};

TEST_P(SequenceTest, EveryAnswerAndEveryRowAgreesWithTheModel) {
  for (int step = 0; step < 2'000; ++step) {
    if (step % 100 == 0) clock_.SetToday(19'000 + step / 100);
    ASSERT_NO_FATAL_FAILURE(Step()) << "step " << step;
    ASSERT_EQ(store_->Stats().rows, model_.size());
    ASSERT_EQ(budget_.used(), model_.size());
    if (step % 250 == 0) {
      ASSERT_EQ(AllRows(*store_, GetParam().partition_bits), model_.Rows());
    }
  }
  ASSERT_EQ(AllRows(*store_, GetParam().partition_bits), model_.Rows());
  EXPECT_EQ(store_->Stats().pruned_total, pruned_);
  EXPECT_LE(budget_.used(), kRowsMax);
}

INSTANTIATE_TEST_SUITE_P(
    All, SequenceTest,
    testing::Values(SequenceCase{1, {"sgd", {{"momentum", 0.0}}}, 4},
                    SequenceCase{3, {"adagrad", {}}, 0}, SequenceCase{4, {"adam", {}}, 4},
                    SequenceCase{8, {"ftrl", {}}, 8}, SequenceCase{16, {"adagrad", {}}, 4},
                    SequenceCase{17, {"ftrl", {}}, 2}, SequenceCase{17, {"sgd", {}}, 12},
                    SequenceCase{32, {"adagrad", {}}, 1}, SequenceCase{64, {"sgd", {}}, 4},
                    SequenceCase{300, {"adam", {}}, 3}),
    CaseName);

// ---- single properties ----

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

TEST_F(EmbeddingStoreTest, WrongSpecificationsAreRefusedWithTheField) {
  const auto refusal = [&](TableSpec spec, int bits = 4) {
    auto store = EmbeddingStore::Create(std::move(spec), bits, &budget_, &clock_);
    return store.ok() ? "accepted" : store.status().message();
  };
  EXPECT_THAT(refusal(Spec(0)), testing::HasSubstr("dim is 0"));
  EXPECT_THAT(refusal(Spec(limits::kEmbeddingDimMax + 1)), testing::HasSubstr("dim is 65537"));
  EXPECT_THAT(refusal(Spec(4, {"adagard", {}})), testing::HasSubstr("adagard"));
  EXPECT_THAT(refusal(Spec(4), 17), testing::HasSubstr("partition_bits is 17"));
  TableSpec nan_scale = Spec(4);
  nan_scale.initializer.scale = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(refusal(nan_scale), testing::HasSubstr("scale"));
  TableSpec nameless = Spec(4);
  nameless.name.clear();
  EXPECT_THAT(refusal(nameless), testing::HasSubstr("name"));
  EXPECT_EQ(refusal(Spec(limits::kEmbeddingDimMax, {"adam", {{"amsgrad", 1.0}}})), "accepted");
}

TEST_F(EmbeddingStoreTest, InsertThenFindSurvivesGrowthOverManySplits) {
  auto store = MakeStore(Spec(4), 2, &budget_, &clock_);
  const std::vector<float> first = Gather(store.get(), Range(0, 100), true);
  for (Key key = 100; key < 60'000; key += 777) Gather(store.get(), Range(key, 777), true);
  EXPECT_EQ(Gather(store.get(), Range(0, 100), false), first);
  EXPECT_EQ(store->CountMissing(Range(0, 60'000)), 0u);
  EXPECT_EQ(AllRows(*store, 2).size(), store->Stats().rows);
}

TEST_F(EmbeddingStoreTest, CountIsOneAtCreationAndOneMoreForEachPush) {
  auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
  Gather(store.get(), {1}, true);
  EXPECT_EQ(Count(*store, 1), 1.0f);
  Gather(store.get(), {1}, true);
  EXPECT_EQ(Count(*store, 1), 1.0f);
  Push(store.get(), {1, 2});
  EXPECT_EQ(Count(*store, 1), 2.0f);
  EXPECT_EQ(Count(*store, 2), 2.0f);  // made by the push: one for each
}

TEST_F(EmbeddingStoreTest, LastDayIsThatOfTheLastPush) {
  auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
  const auto last_day = [&](Key key) {
    const RowHeader* header = nullptr;
    const float* values = nullptr;
    EXPECT_TRUE(store->Find(key, &header, &values));
    return header->last_day;
  };
  Push(store.get(), {1});
  clock_.SetToday(20'003);
  Gather(store.get(), {1, 2}, true);
  EXPECT_EQ(last_day(1), 20'000u);
  EXPECT_EQ(last_day(2), 20'003u);
  Push(store.get(), {1});
  EXPECT_EQ(last_day(1), 20'003u);
}

TEST_F(EmbeddingStoreTest, MissingKeysWithoutCreateAreZerosAndMakeNothing) {
  auto store = MakeStore(Spec(3), 4, &budget_, &clock_);
  EXPECT_EQ(Gather(store.get(), {5, 6, 5}, false), std::vector<float>(9, 0.0f));
  EXPECT_EQ(store->Stats().rows, 0u);
  EXPECT_EQ(store->Stats().created_total, 0u);
}

TEST_F(EmbeddingStoreTest, AKeyRepeatedInOneGatherIsMadeOnce) {
  auto store = MakeStore(Spec(3), 4, &budget_, &clock_);
  const std::vector<Key> keys(1'000, 9);
  EXPECT_EQ(store->CountMissing(keys), 1u);
  const std::vector<float> out = Gather(store.get(), keys, true);
  EXPECT_EQ(store->Stats().created_total, 1u);
  for (std::size_t i = 3; i < out.size(); ++i) ASSERT_EQ(out[i], out[i - 3]);
}

TEST_F(EmbeddingStoreTest, NewRowsDependOnSeedTableAndKeyAlone) {
  auto a = MakeStore(Spec(16), 0, &budget_, &clock_);
  auto b = MakeStore(Spec(16), 12, &budget_, &clock_);
  auto keys = Range(1'000, 3'000);
  Gather(a.get(), keys, true);
  std::shuffle(keys.begin(), keys.end(), std::mt19937_64(3));
  Push(b.get(), {1'500});  // made by a push rather than a pull, then made again
  b->Remove(1'500);
  for (const Key key : keys) Gather(b.get(), {key}, true);
  EXPECT_EQ(AllRows(*a, 0), AllRows(*b, 12));

  TableSpec other_seed = Spec(16);
  other_seed.seed = 43;
  TableSpec other_name = Spec(16);
  other_name.name = "user";
  for (const TableSpec& spec : {other_seed, other_name}) {
    auto c = MakeStore(spec, 0, &budget_, &clock_);
    EXPECT_NE(Gather(c.get(), {1'000}, true), Gather(a.get(), {1'000}, true));
  }
}

TEST_F(EmbeddingStoreTest, APrunedKeySeenAgainIsANewRow) {
  auto store = MakeStore(Spec(8), 2, &budget_, &clock_);
  const auto keys = Range(0, 500);
  const std::vector<float> initial = Gather(store.get(), keys, true);
  const auto fresh = AllRows(*store, 2);
  Push(store.get(), keys);
  EXPECT_NE(Gather(store.get(), keys, false), initial);
  std::uint64_t pruned = 0;
  EXPECT_TRUE(store->PruneStep(3.0f, kAll, &pruned));
  EXPECT_EQ(pruned, 500u);
  EXPECT_EQ(store->CountMissing(keys), 500u);
  EXPECT_EQ(Gather(store.get(), keys, true), initial);
  EXPECT_EQ(AllRows(*store, 2), fresh);
  EXPECT_EQ(store->Stats().created_total, 1'000u);
  EXPECT_EQ(store->Stats().pruned_total, 500u);
}

TEST_F(EmbeddingStoreTest, PruneKeepsRowsAtTheThreshold) {
  auto store = MakeStore(Spec(1), 2, &budget_, &clock_);
  Gather(store.get(), {1, 2}, true);
  Push(store.get(), {2});
  std::uint64_t pruned = 0;
  EXPECT_TRUE(store->PruneStep(1.0f, kAll, &pruned));
  EXPECT_EQ(pruned, 0u);
  EXPECT_TRUE(store->PruneStep(2.0f, kAll, &pruned));
  EXPECT_EQ(pruned, 1u);
  EXPECT_EQ(Count(*store, 2), 2.0f);
}

TEST_F(EmbeddingStoreTest, MemoryOfPrunedRowsIsReused) {
  auto store = MakeStore(Spec(16), 4, &budget_, &clock_);
  Gather(store.get(), Range(0, 20'000), true);
  const TableStats before = store->Stats();
  for (Key round = 1; round <= 5; ++round) {
    std::uint64_t pruned = 0;
    EXPECT_TRUE(store->PruneStep(2.0f, kAll, &pruned));
    EXPECT_EQ(pruned, 20'000u);
    Gather(store.get(), Range(round * 1'000'000, 20'000), true);
  }
  const TableStats after = store->Stats();
  EXPECT_EQ(after.rows, before.rows);
  EXPECT_LE(after.index_bytes, before.index_bytes * 1.1);
}

TEST_F(EmbeddingStoreTest, MemoryStatsAddUpToWhatIsHeld) {
  auto pool = std::make_shared<PagePool>();
  auto created = EmbeddingStore::Create(Spec(16), 4, &budget_, &clock_, pool);
  ASSERT_TRUE(created.ok());
  EmbeddingStore& store = *created.value();
  const auto check = [&] {
    const TableStats stats = store.Stats();
    EXPECT_EQ(stats.values_bytes, stats.rows * (16 + 16 * 4));
    EXPECT_EQ(stats.state_bytes, stats.rows * 16 * 4);
    // Only the index blocks below one chunk, and bookkeeping, come from outside the pool.
    const std::size_t total = stats.values_bytes + stats.state_bytes + stats.index_bytes;
    EXPECT_GE(total, pool->used_bytes());
    EXPECT_LE(total, pool->used_bytes() + 4'096 + stats.rows * 4);
  };
  check();
  Gather(&store, Range(0, 30'000), true);
  check();
  EXPECT_GT(pool->used_bytes(), 30'000u * 144);
  store.Clear();
  check();
  EXPECT_EQ(store.Stats().rows, 0u);
  EXPECT_EQ(pool->used_bytes(), 0u);
  created.value().reset();
  EXPECT_EQ(pool->used_bytes(), 0u);
}

TEST_F(EmbeddingStoreTest, ALargeTableCostsAtMost32BytesARowBeyondValuesAndState) {
  auto store = MakeStore(Spec(16), 4, &budget_, &clock_);
  Gather(store.get(), Range(0, 100'000), true);
  const TableStats stats = store->Stats();
  const double total = static_cast<double>(stats.values_bytes + stats.state_bytes +
                                           stats.index_bytes);
  EXPECT_LE(total / static_cast<double>(stats.rows) - 2 * 16 * 4, 32.0);
}

TEST_F(EmbeddingStoreTest, RowsGoBackToTheBudgetHoweverTheyGo) {
  {
    auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
    Gather(store.get(), Range(0, 100), true);
    Push(store.get(), Range(0, 40));
    EXPECT_EQ(budget_.used(), 100u);
    EXPECT_TRUE(store->Remove(0));
    EXPECT_FALSE(store->Remove(0));
    EXPECT_EQ(budget_.used(), 99u);
    std::uint64_t pruned = 0;
    EXPECT_TRUE(store->PruneStep(2.0f, kAll, &pruned));
    EXPECT_EQ(budget_.used(), 39u);
    store->Clear();
    EXPECT_EQ(budget_.used(), 0u);
    Gather(store.get(), Range(0, 10), true);
  }
  EXPECT_EQ(budget_.used(), 0u);
}

TEST_F(EmbeddingStoreTest, WhatIsNotNeededStaysReserved) {
  auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
  Gather(store.get(), {1}, true);
  std::size_t reserved = 5;
  ASSERT_TRUE(budget_.TryReserve(reserved));
  const std::vector<Key> keys{1, 2, 3, 2};
  std::vector<float> out(16);
  store->Gather(keys, nullptr, true, &reserved, out.data());
  EXPECT_EQ(reserved, 3u);
}

// The key whose hash with the table's salt is `hash`: Mix64 backwards.
Key KeyOfHash(std::uint64_t salt, std::uint64_t hash) {
  const auto inverse = [](std::uint64_t odd) {
    std::uint64_t x = odd;
    for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
    return x;
  };
  std::uint64_t x = hash;
  x ^= x >> 31 ^ x >> 62;
  x *= inverse(0x94d049bb133111ebull);
  x ^= x >> 27 ^ x >> 54;
  x *= inverse(0xbf58476d1ce4e5b9ull);
  x ^= x >> 30 ^ x >> 60;
  return (x - 0x9e3779b97f4a7c15ull) ^ salt;
}

TEST_F(EmbeddingStoreTest, KeysThatShareBucketAndTagAreToldApart) {
  const TableSpec spec = Spec(4);
  const std::uint64_t salt = HashBytes(spec.name);
  std::vector<Key> keys;
  for (std::uint64_t i = 0; i < 1'200; ++i) {
    // One partition; a third of the keys share all that the index sees, a third the tag.
    const std::uint64_t low = i % 3 == 0 ? 0x80000042u : i % 3 == 1 ? i << 12 | 0x42 : i << 20 | i;
    const std::uint64_t hash = i << 32 | (low & 0xffffffffu);
    keys.push_back(KeyOfHash(salt, hash));
    ASSERT_EQ(HashKey(salt, keys.back()), hash);
  }
  auto store = MakeStore(spec, 12, &budget_, &clock_);
  const std::vector<float> out = Gather(store.get(), keys, true);
  EXPECT_EQ(store->Stats().rows, keys.size());
  EXPECT_EQ(Gather(store.get(), keys, false), out);
  for (std::size_t i = 0; i < keys.size(); i += 2) ASSERT_TRUE(store->Remove(keys[i]));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(Count(*store, keys[i]), i % 2 == 0 ? -1.0f : 1.0f);
  }
  EXPECT_EQ(Gather(store.get(), keys, true), out);
}

TEST_F(EmbeddingStoreTest, ExtremeKeysAreOrdinary) {
  auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
  const std::uint64_t salt = HashBytes(store->spec().name);
  const std::vector<Key> keys{0, ~Key{0}, kNullKey, salt, Key{1} << 63, KeyOfHash(salt, 0),
                              KeyOfHash(salt, ~0ull)};
  Push(store.get(), keys);
  EXPECT_EQ(store->Stats().rows, keys.size());
  for (const Key key : keys) EXPECT_EQ(Count(*store, key), 2.0f);
}

// ---- sweeps in steps, with other work between them ----

TEST_F(EmbeddingStoreTest, ABoundedSweepMeetsEachOldRowOnceAndNewRowsAtMostOnce) {
  auto store = MakeStore(Spec(2), 3, &budget_, &clock_);
  Push(store.get(), Range(0, 3'000));  // count 2
  std::mt19937_64 random(5);
  std::set<Key> pushed;
  Key next = 3'000;
  int steps = 0;
  while (!store->DecayStep(0.5f, 50)) {
    ++steps;
    const Key key = random() % 3'000;
    if (pushed.insert(key).second) Push(store.get(), {key});
    Push(store.get(), Range(next, 20));
    next += 20;
    store->Remove(random() % 100 + 2'900);  // makes holes that new rows fill
  }
  EXPECT_GE(steps, 3'000 / 50 - 1);
  for (Key key = 0; key < next; ++key) {
    const float count = Count(*store, key);
    if (count < 0) continue;
    if (key >= 3'000) {
      ASSERT_TRUE(count == 2.0f || count == 1.0f) << key << ": " << count;
    } else if (pushed.contains(key)) {
      ASSERT_TRUE(count == 1.5f || count == 2.0f) << key << ": " << count;
    } else {
      ASSERT_EQ(count, 1.0f) << key;
    }
  }
}

TEST_F(EmbeddingStoreTest, ABoundedPruneInterleavedWithInsertsTakesExactlyTheOldRowsBelow) {
  auto store = MakeStore(Spec(2), 3, &budget_, &clock_);
  Gather(store.get(), Range(0, 4'000), true);
  Push(store.get(), Range(0, 1'000));
  std::uint64_t pruned = 0;
  Key next = 10'000;
  while (!store->PruneStep(2.0f, 64, &pruned)) {
    Push(store.get(), Range(next, 30));  // count 2: stays
    next += 30;
  }
  EXPECT_EQ(pruned, 3'000u);
  EXPECT_EQ(store->CountMissing(Range(0, 1'000)), 0u);
  EXPECT_EQ(store->CountMissing(Range(1'000, 3'000)), 3'000u);
  EXPECT_EQ(store->CountMissing(Range(10'000, next - 10'000)), 0u);
  EXPECT_EQ(AllRows(*store, 3).size(), 1'000 + next - 10'000);
}

TEST_F(EmbeddingStoreTest, AStepHandlesNoMoreRowsThanItMay) {
  auto store = MakeStore(Spec(2), 3, &budget_, &clock_);
  Gather(store.get(), Range(0, 1'000), true);
  std::uint64_t pruned = 0;
  for (std::uint64_t expected = 70; expected < 1'000; expected += 70) {
    ASSERT_FALSE(store->PruneStep(2.0f, 70, &pruned));
    ASSERT_EQ(pruned, expected);
  }
  EXPECT_TRUE(store->PruneStep(2.0f, 70, &pruned));
  EXPECT_EQ(pruned, 1'000u);
}

TEST_F(EmbeddingStoreTest, ASweepOfAnEmptyTableIsOverAtOnce) {
  auto store = MakeStore(Spec(2), 3, &budget_, &clock_);
  std::uint64_t pruned = 0;
  EXPECT_TRUE(store->DecayStep(0.5f, 1));
  EXPECT_TRUE(store->PruneStep(2.0f, 1, &pruned));
  Gather(store.get(), Range(0, 10), true);
  EXPECT_FALSE(store->DecayStep(0.5f, 1));
  store->Clear();
  EXPECT_TRUE(store->DecayStep(0.5f, 1));
}

TEST_F(EmbeddingStoreTest, TablesOfOneShardShareItsPages) {
  auto pool = std::make_shared<PagePool>();
  std::vector<std::unique_ptr<EmbeddingStore>> stores;
  for (int i = 0; i < 30; ++i) {
    TableSpec spec = Spec(8 + i % 3);
    spec.name = "table" + std::to_string(i);
    auto store = EmbeddingStore::Create(spec, 12, &budget_, &clock_, pool);
    ASSERT_TRUE(store.ok());
    stores.push_back(std::move(store).value());
  }
  for (auto& store : stores) Gather(store.get(), Range(0, 500), true);
  EXPECT_LE(pool->held_bytes(), 14 * PagePool::kPageBytes);
  for (auto& store : stores) {
    EXPECT_EQ(Gather(store.get(), Range(0, 500), true), Gather(store.get(), Range(0, 500), false));
  }
}

}  // namespace
}  // namespace ps::store
