// The hot path of one server in process: gather, Adagrad apply, decay and prune, each measured in
// turns with what it is held against, batch by batch in one run, and reported as the median ratio.
//
//   vs_ceiling  speed against a gather of the same rows whose addresses are known
//   vs_cuckoo   speed against libcuckoo on the same keys, its tables in huge pages as well
//   vs_memcpy   speed against memcpy of as many bytes as the rows take
//
// Times are those of the processor under the slower of the two threads, so that other work on the
// machine disturbs little; the memory it shares with others remains.
//
// PS_BENCH_ROWS sets the number of rows (4,000,000; the bars are for 20,000,000, which take 9 GB).
// Two threads serve two shards, one each serves both when `threads:1`.

#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <libcuckoo/cuckoohash_map.hh>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/hash.h"
#include "ps/store/embedding_store.h"
#include "ps/store/page_pool.h"

namespace {

using ps::Key;
using ps::store::EmbeddingStore;

constexpr std::size_t kDim = 16;
constexpr std::size_t kBatchKeys = 106'496;
constexpr int kPartitionBits = 12;
constexpr int kShards = 2;
constexpr std::size_t kBatches = 24;
constexpr std::size_t kBatchesPerTurn = 4;
constexpr double kZipfExponent = 1.05;
constexpr float kRate = 0.01f;
constexpr float kEpsilon = 1e-10f;

std::size_t RowsOfTable() {
  const char* rows = std::getenv("PS_BENCH_ROWS");
  return rows == nullptr ? 4'000'000 : std::strtoull(rows, nullptr, 10);
}

Key KeyOfRank(std::uint64_t rank) { return ps::Mix64(rank ^ 0x5bd1e995u); }

double ThreadSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

template <typename Work>
double Seconds(Work&& work) {
  const double start = ThreadSeconds();
  work();
  return ThreadSeconds() - start;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Ranks from 0 with probability ~ (rank + 1)^-s: rejection-inversion after Hoermann and Derflinger,
// "Rejection-inversion to generate variates from monotone discrete distributions" (1996).
class Zipf {
 public:
  Zipf(double n, double s) : n_(n), s_(s), low_(H(1.5) - 1.0), high_(H(n + 0.5)) {}

  template <typename Random>
  std::uint64_t operator()(Random& random) const {
    std::uniform_real_distribution<double> uniform(low_, high_);
    for (;;) {
      const double u = uniform(random);
      const double x = HInverse(u);
      const double k = std::clamp(std::round(x), 1.0, n_);
      if (u >= H(k + 0.5) - std::pow(k, -s_)) return static_cast<std::uint64_t>(k) - 1;
    }
  }

 private:
  double H(double x) const { return (std::pow(x, 1 - s_) - 1) / (1 - s_); }
  double HInverse(double u) const { return std::pow(1 + u * (1 - s_), 1 / (1 - s_)); }

  double n_, s_, low_, high_;
};

// Huge pages for everything large, as the store's own pages.
template <typename T>
struct HugePageAllocator {
  using value_type = T;
  static constexpr std::size_t kPage = std::size_t{2} << 20;

  HugePageAllocator() = default;
  template <typename U>
  HugePageAllocator(const HugePageAllocator<U>&) {}  // NOLINT: allocators convert

  T* allocate(std::size_t n) {
    const std::size_t bytes = (n * sizeof(T) + kPage - 1) / kPage * kPage;
    if (n * sizeof(T) < kPage) return static_cast<T*>(std::aligned_alloc(64, Rounded(n)));
    void* memory = std::aligned_alloc(kPage, bytes);
    madvise(memory, bytes, MADV_HUGEPAGE);
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }
  static std::size_t Rounded(std::size_t n) { return (n * sizeof(T) + 63) / 64 * 64; }
  template <typename U>
  bool operator==(const HugePageAllocator<U>&) const {
    return true;
  }
  template <typename U>
  bool operator!=(const HugePageAllocator<U>&) const {
    return false;
  }
};

struct MixHash {
  std::size_t operator()(Key key) const { return ps::Mix64(key); }
};
using Floats = std::array<float, kDim>;
using CuckooTable = libcuckoo::cuckoohash_map<Key, Floats, MixHash, std::equal_to<Key>,
                                              HugePageAllocator<std::pair<const Key, Floats>>>;

template <typename T>
using HugeVector = std::vector<T, HugePageAllocator<T>>;

// One shard's share of a batch.
struct Share {
  std::vector<Key> keys;
  std::vector<const float*> rows;  // known addresses of the keys' values
};
using Batch = std::array<Share, kShards>;

int ShardOf(const EmbeddingStore& store, Key key) {
  const std::uint64_t hash = ps::HashKey(ps::HashBytes(store.spec().name), key);
  return static_cast<int>(ps::PartitionOf(hash, kPartitionBits) % kShards);
}

// The same rows in two shards of ours and in libcuckoo.
class World {
 public:
  explicit World(std::size_t rows, bool with_cuckoo = true) : rows_(rows) {
    ps::store::TableSpec spec;
    spec.name = "bench";
    spec.dim = kDim;
    spec.optimizer = {"adagrad", {{"learning_rate", kRate}}};
    for (int s = 0; s < kShards; ++s) {
      pools_[s] = std::make_shared<ps::store::PagePool>();
      shards_[s] =
          EmbeddingStore::Create(spec, kPartitionBits, &budget_, &ps::Clock::System(), pools_[s])
              .value();
    }
    create_seconds_ = Seconds([&] { Fill(); });
    if (with_cuckoo) FillCuckoo();
    PrintSizes();
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
        Share& share = batch[ShardOf(*shards_[0], key)];
        const ps::store::RowHeader* header;
        const float* values;
        if (!shards_[ShardOf(*shards_[0], key)]->Find(key, &header, &values)) std::abort();
        share.keys.push_back(key);
        share.rows.push_back(values);
      }
    }
    return batches;
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
  void PrintSizes() const {
    double table = 0;
    double pages = 0;
    for (int s = 0; s < kShards; ++s) {
      const ps::store::TableStats stats = shards_[s]->Stats();
      table += static_cast<double>(stats.values_bytes + stats.state_bytes + stats.index_bytes);
      pages += static_cast<double>(pools_[s]->held_bytes());
    }
    const auto beyond = [this](double bytes) {
      return bytes / static_cast<double>(rows_) - 2 * kDim * sizeof(float);
    };
    std::printf(
        "bar: bytes a row beyond values and state, %zu rows | %.1f (by pages held %.1f) | 32 "
        "| 24\nrows created at %.2f M/s by one thread\n",
        rows_, beyond(table), beyond(pages), static_cast<double>(rows_) / create_seconds_ / 1e6);
  }

  const std::size_t rows_;
  ps::store::RowBudget budget_{0};
  std::array<std::shared_ptr<ps::store::PagePool>, kShards> pools_;
  std::array<std::unique_ptr<EmbeddingStore>, kShards> shards_;
  std::unique_ptr<CuckooTable> values_;
  std::unique_ptr<CuckooTable> states_;
  std::array<HugeVector<float>, kShards> outs_;
  std::array<HugeVector<float>, kShards> grads_;
  double create_seconds_ = 0;
};

World& TheWorld() {
  static World world(RowsOfTable());
  return world;
}

// Two threads, each with its shard, started and ended together; or one that serves both.
class Crew {
 public:
  explicit Crew(int threads) : threads_(threads), start_(2), end_(2) {
    if (threads_ == 2) helper_ = std::thread([this] { Help(); });
  }
  ~Crew() {
    if (threads_ == 1) return;
    work_ = nullptr;
    start_.arrive_and_wait();
    helper_.join();
  }

  // Seconds that work(0) and work(1) take, the slower one when each has a thread.
  double Run(const std::function<void(int)>& work) {
    if (threads_ == 1) {
      return Seconds([&] {
        work(0);
        work(1);
      });
    }
    work_ = &work;
    start_.arrive_and_wait();
    const double own = Seconds([&] { work(0); });
    end_.arrive_and_wait();
    return std::max(own, helper_seconds_);
  }

 private:
  void Help() {
    for (;;) {
      start_.arrive_and_wait();
      if (work_ == nullptr) return;
      helper_seconds_ = Seconds([&] { (*work_)(1); });
      end_.arrive_and_wait();
    }
  }

  const int threads_;
  std::barrier<> start_;
  std::barrier<> end_;
  const std::function<void(int)>* work_ = nullptr;
  double helper_seconds_ = 0;
  std::thread helper_;
};

// Times of several ways to do the same work, taken in turns.
class Turns {
 public:
  void Add(const char* name, double seconds, double rows) {
    for (Way& way : ways_) {
      if (way.name == name) {
        way.seconds_per_row.push_back(seconds / rows);
        return;
      }
    }
    ways_.push_back(Way{name, {seconds / rows}});
  }
  // The first way's figures against the others'.
  void Report(benchmark::State& state) const {
    for (const Way& way : ways_) {
      state.counters[way.name + "_M/s"] = 1e-6 / Median(way.seconds_per_row);
    }
    for (std::size_t w = 1; w < ways_.size(); ++w) {
      std::vector<double> ratios;
      for (std::size_t i = 0; i < ways_[0].seconds_per_row.size(); ++i) {
        ratios.push_back(ways_[w].seconds_per_row[i] / ways_[0].seconds_per_row[i]);
      }
      state.counters["vs_" + ways_[w].name] = Median(ratios);
    }
  }
  // A line for bench/run: the first way's speed against `way`'s, as a share or as a multiple.
  void Bar(const std::string& what, const char* way, const char* floor, const char* aim,
           bool is_share) const {
    for (const Way& other : ways_) {
      if (other.name != way) continue;
      std::vector<double> ratios;
      for (std::size_t i = 0; i < other.seconds_per_row.size(); ++i) {
        ratios.push_back(other.seconds_per_row[i] / ways_[0].seconds_per_row[i]);
      }
      std::sort(ratios.begin(), ratios.end());
      const double scale = is_share ? 100 : 1;
      std::printf(is_share ? "bar: %s | %.0f %% (%.0f to %.0f), %.1f M rows/s | %s | %s\n"
                           : "bar: %s | %.1fx (%.1f to %.1f), %.1f M rows/s | %s | %s\n",
                  what.c_str(), scale * ratios[ratios.size() / 2],
                  scale * ratios[ratios.size() / 10], scale * ratios[ratios.size() * 9 / 10],
                  1e-6 / Median(ways_[0].seconds_per_row), floor, aim);
    }
  }

 private:
  struct Way {
    std::string name;
    std::vector<double> seconds_per_row;
  };
  std::vector<Way> ways_;
};

void GatherKnown(const Share& share, float* out) {
  constexpr std::size_t kAhead = 24;
  const std::size_t n = share.rows.size();
  for (std::size_t i = 0; i < n; ++i) {
    if (i + kAhead < n) {
      __builtin_prefetch(share.rows[i + kAhead]);
      __builtin_prefetch(share.rows[i + kAhead] + kDim - 1);
    }
    std::memcpy(out + i * kDim, share.rows[i], kDim * sizeof(float));
  }
}

void GatherCuckoo(const CuckooTable& table, const Share& share, float* out) {
  for (std::size_t i = 0; i < share.keys.size(); ++i) {
    table.find_fn(share.keys[i], [&](const Floats& values) {
      std::memcpy(out + i * kDim, values.data(), sizeof(values));
    });
  }
}

void AdagradStep(const float* grad, float* values, float* state) {
  for (std::size_t d = 0; d < kDim; ++d) {
    state[d] += grad[d] * grad[d];
    values[d] -= kRate * grad[d] / (std::sqrt(state[d]) + kEpsilon);
  }
}

// Value and state each looked up, the step taken, and each written back: what an optimizer does
// over tables that know nothing of it.
void ApplyCuckoo(CuckooTable* values, CuckooTable* states, const Share& share, const float* grads) {
  Floats value;
  Floats state;
  for (std::size_t i = 0; i < share.keys.size(); ++i) {
    values->find(share.keys[i], value);
    states->find(share.keys[i], state);
    AdagradStep(grads + i * kDim, value.data(), state.data());
    values->insert_or_assign(share.keys[i], value);
    states->insert_or_assign(share.keys[i], state);
  }
}

// The best two tables can do: both rows changed in place.
void ApplyCuckooInPlace(CuckooTable* values, CuckooTable* states, const Share& share,
                        const float* grads) {
  for (std::size_t i = 0; i < share.keys.size(); ++i) {
    states->update_fn(share.keys[i], [&](Floats& state) {
      values->update_fn(share.keys[i], [&](Floats& value) {
        AdagradStep(grads + i * kDim, value.data(), state.data());
      });
    });
  }
}

// Runs `work(batch, shard)` over a few batches; the seconds for all of them.
double RunTurn(Crew* crew, const std::vector<Batch>& batches, std::size_t first,
               const std::function<void(const Share&, int)>& work) {
  return crew->Run([&](int s) {
    for (std::size_t b = 0; b < kBatchesPerTurn; ++b) {
      work(batches[(first + b) % batches.size()][s], s);
    }
  });
}

double RowsOfTurn(const std::vector<Batch>& batches, std::size_t first) {
  std::size_t rows = 0;
  for (std::size_t b = 0; b < kBatchesPerTurn; ++b) {
    for (const Share& share : batches[(first + b) % batches.size()]) rows += share.keys.size();
  }
  return static_cast<double>(rows);
}

std::string NameOf(const benchmark::State& state) {
  return std::string(state.range(0) != 0 ? ", Zipf 1.05, " : ", uniform, ") +
         (state.range(1) == 1 ? "1 thread" : "2 threads");
}

void Gather(benchmark::State& state) {
  World& world = TheWorld();
  Crew crew(static_cast<int>(state.range(1)));
  const std::vector<Batch> batches = world.Batches(state.range(0) != 0, false);
  Turns turns;
  std::size_t first = 0;
  for (auto _ : state) {
    const double rows = RowsOfTurn(batches, first);
    const double ours = RunTurn(&crew, batches, first, [&](const Share& share, int s) {
      world.shard(s).Gather(share.keys, nullptr, false, nullptr, world.out(s));
    });
    turns.Add("gather", ours, rows);
    turns.Add("ceiling",
              RunTurn(&crew, batches, first,
                      [&](const Share& share, int s) { GatherKnown(share, world.out(s)); }),
              rows);
    turns.Add("cuckoo",
              RunTurn(&crew, batches, first,
                      [&](const Share& share, int s) {
                        GatherCuckoo(world.values(), share, world.out(s));
                      }),
              rows);
    state.SetIterationTime(ours);
    first += kBatchesPerTurn;
  }
  turns.Report(state);
  const std::string what = "gather" + NameOf(state);
  turns.Bar(what + ", against the known-index gather", "ceiling", "25 %", "50 %", true);
  turns.Bar(what + ", against libcuckoo find + copy", "cuckoo", "3x", "6x", false);
}
BENCHMARK(Gather)
    ->ArgNames({"zipf", "threads"})
    ->ArgsProduct({{0, 1}, {2, 1}})
    ->Iterations(25)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

void Apply(benchmark::State& state) {
  World& world = TheWorld();
  Crew crew(static_cast<int>(state.range(1)));
  const std::vector<Batch> batches = world.Batches(state.range(0) != 0, true);
  Turns turns;
  std::size_t first = 0;
  for (auto _ : state) {
    const double rows = RowsOfTurn(batches, first);
    const double ours = RunTurn(&crew, batches, first, [&](const Share& share, int s) {
      std::size_t reserved = 0;
      world.shard(s).Apply(share.keys, nullptr, world.grads(s), 1.0f, &reserved);
    });
    turns.Add("apply", ours, rows);
    turns.Add("cuckoo",
              RunTurn(&crew, batches, first,
                      [&](const Share& share, int s) {
                        ApplyCuckoo(&world.values(), &world.states(), share, world.grads(s));
                      }),
              rows);
    turns.Add("cuckoo_in_place",
              RunTurn(&crew, batches, first,
                      [&](const Share& share, int s) {
                        ApplyCuckooInPlace(&world.values(), &world.states(), share, world.grads(s));
                      }),
              rows);
    state.SetIterationTime(ours);
    first += kBatchesPerTurn;
  }
  turns.Report(state);
  const std::string what = "Adagrad apply" + NameOf(state);
  turns.Bar(what + ", against libcuckoo, value and state in two tables", "cuckoo", "8x", "12x",
            false);
  turns.Bar(what + ", against the same changed in place", "cuckoo_in_place", "", "", false);
}
BENCHMARK(Apply)
    ->ArgNames({"zipf", "threads"})
    ->ArgsProduct({{0, 1}, {2, 1}})
    ->Iterations(25)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// memcpy of the bytes of one shard's rows, through buffers larger than any cache.
class Copier {
 public:
  explicit Copier(std::size_t bytes) : bytes_(bytes) {
    for (auto& b : buffers_) b.assign(kBuffer, 1);
  }
  void operator()(int s) {
    for (std::size_t done = 0; done < bytes_; done += kBuffer) {
      std::memcpy(buffers_[2 * s].data(), buffers_[2 * s + 1].data(),
                  std::min(kBuffer, bytes_ - done));
    }
  }

 private:
  static constexpr std::size_t kBuffer = std::size_t{192} << 20;
  const std::size_t bytes_;
  std::array<HugeVector<char>, 2 * kShards> buffers_;
};

std::size_t BytesOfShard(const World& world) {
  return world.rows() / kShards * ps::store::RowStrideBytes(kDim, kDim);
}

void Decay(benchmark::State& state) {
  World& world = TheWorld();
  Crew crew(static_cast<int>(state.range(0)));
  Copier copy(BytesOfShard(world));
  Turns turns;
  const auto rows = static_cast<double>(world.rows());
  for (auto _ : state) {
    const double ours = crew.Run([&](int s) { world.shard(s).DecayStep(0.999f, 0); });
    turns.Add("decay", ours, rows);
    turns.Add("memcpy", crew.Run([&](int s) { copy(s); }), rows);
    state.SetIterationTime(ours);
  }
  turns.Report(state);
  turns.Bar("decay of all rows, against memcpy", "memcpy", "30 %", "60 %", true);
}
BENCHMARK(Decay)
    ->ArgNames({"threads"})
    ->Arg(2)
    ->Arg(1)
    ->Iterations(7)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

void PruneNothing(benchmark::State& state) {
  World& world = TheWorld();
  Crew crew(static_cast<int>(state.range(0)));
  Copier copy(BytesOfShard(world));
  Turns turns;
  const auto rows = static_cast<double>(world.rows());
  for (auto _ : state) {
    std::array<std::uint64_t, kShards> pruned{};
    const double ours = crew.Run([&](int s) { world.shard(s).PruneStep(0.0f, 0, &pruned[s]); });
    turns.Add("prune", ours, rows);
    turns.Add("memcpy", crew.Run([&](int s) { copy(s); }), rows);
    state.SetIterationTime(ours);
  }
  turns.Report(state);
  turns.Bar("prune of all rows, none goes, against memcpy", "memcpy", "30 %", "60 %", true);
}
BENCHMARK(PruneNothing)
    ->ArgNames({"threads"})
    ->Arg(2)
    ->Iterations(7)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// Takes out every row; a world of its own for each turn, of at most 4 M rows.
void PruneAll(benchmark::State& state) {
  Crew crew(2);
  Turns turns;
  for (auto _ : state) {
    World world(std::min<std::size_t>(RowsOfTable(), 4'000'000), false);
    Copier copy(BytesOfShard(world));
    const auto rows = static_cast<double>(world.rows());
    std::array<std::uint64_t, kShards> pruned{};
    const double ours = crew.Run([&](int s) { world.shard(s).PruneStep(1e9f, 0, &pruned[s]); });
    if (pruned[0] + pruned[1] != world.rows()) state.SkipWithError("rows were left");
    turns.Add("prune", ours, rows);
    turns.Add("memcpy", crew.Run([&](int s) { copy(s); }), rows);
    state.SetIterationTime(ours);
  }
  turns.Report(state);
  turns.Bar("prune of all rows, all go, against memcpy", "memcpy", "30 %", "60 %", true);
}
BENCHMARK(PruneAll)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);

// Nanoseconds a row at growing sizes, dim 4; the largest is PS_BENCH_LARGE_MILLIONS (10).
void CostPerRow(benchmark::State& state) {
  const char* large = std::getenv("PS_BENCH_LARGE_MILLIONS");
  const std::int64_t millions_max = large == nullptr ? 10 : std::strtoll(large, nullptr, 10);
  if (state.range(0) > millions_max) {
    state.SkipWithError("larger than PS_BENCH_LARGE_MILLIONS");
    return;
  }
  const auto rows = static_cast<std::size_t>(state.range(0)) * 1'000'000;
  ps::store::RowBudget budget(0);
  ps::store::TableSpec spec;
  spec.name = "bench";
  spec.dim = 4;
  spec.optimizer = {"adagrad", {}};
  auto store = EmbeddingStore::Create(spec, kPartitionBits, &budget, &ps::Clock::System()).value();
  std::vector<float> out(kBatchKeys * spec.dim);
  std::vector<Key> keys;
  for (std::size_t rank = 0; rank < rows;) {
    keys.clear();
    while (keys.size() < kBatchKeys && rank < rows) keys.push_back(KeyOfRank(rank++));
    std::size_t reserved = keys.size();
    budget.TryReserve(reserved);
    store->Gather(keys, nullptr, true, &reserved, out.data());
  }
  std::mt19937_64 random(3);
  keys.resize(kBatchKeys);
  std::vector<double> seconds;
  for (auto _ : state) {
    for (Key& key : keys) key = KeyOfRank(random() % rows);
    seconds.push_back(Seconds([&] { store->Gather(keys, nullptr, false, nullptr, out.data()); }));
    state.SetIterationTime(seconds.back());
  }
  const double cost = Median(seconds) / kBatchKeys * 1e9;
  state.counters["ns_per_row"] = cost;
  static const double cost_of_first = cost;
  if (cost != cost_of_first) {
    std::printf(
        "bar: cost of a gathered row (dim 4) at %ld M rows, against 1 M | %.2fx (%.1f ns) | "
        "2.5x | 2x\n",
        static_cast<long>(state.range(0)), cost / cost_of_first, cost);
  }
}
BENCHMARK(CostPerRow)
    ->ArgName("millions")
    ->Arg(1)
    ->Arg(10)
    ->Arg(100)
    ->Iterations(60)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
