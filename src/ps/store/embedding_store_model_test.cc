#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "ps/base/hash.h"
#include "ps/store/row_visit.h"
#include "ps/store/test_store.h"

namespace ps::store {
namespace {

using optimizers::Optimizer;
using optimizers::OptimizerConfig;

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

  // Now and then a batch longer than a block of the visit; short ones of wide rows, or the model
  // takes long.
  std::size_t BatchMax() {
    if (spec_.dim > 64) return 40;
    return random_() % 32 == 0 ? 2 * kVisitBlock : 200;
  }
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
    const std::vector<Key> keys = Keys(BatchMax(), false);
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
  // Some later Apply is of these keys; what happens before it is anything.
  void Locate() {
    located_keys_ = Keys(BatchMax(), true);
    located_ = store_->Locate(located_keys_);
  }
  void Apply() {
    const bool is_located = random_() % 2 == 0;
    const std::vector<Key> keys = is_located ? located_keys_ : Keys(BatchMax(), true);
    const auto positions = Positions(keys.size());
    const bool positioned = random_() % 2 == 0;
    std::size_t reserved = 0;
    if (!Reserve(keys, &reserved)) return;
    const std::vector<float> grads = Floats(keys.size() * spec_.dim);
    const float rate_scale = random_() % 2 == 0 ? 1.0f : 0.5f;
    store_->Apply(keys, positioned ? positions.data() : nullptr, grads.data(), rate_scale,
                  &reserved, is_located ? &located_ : nullptr);
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
    if (what < 36) {
      Gather();
    } else if (what < 40) {
      Locate();
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
  std::vector<Key> located_keys_;
  LocatedRows located_ = store_->Locate(located_keys_);
};

TEST_P(SequenceTest, EveryAnswerAndEveryRowAgreesWithTheModel) {
  for (int step = 0; step < 1'000; ++step) {
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

}  // namespace
}  // namespace ps::store
