// Counts that do not depend on how busy the machine is; tests/test_counts.py holds them to limits.
//
//   ps_counts gather|apply   the work between two marks, for callgrind:
//   --toggle-collect=CountedWork ps_counts memory         bytes a row beyond values and state
//   ps_counts requests       allocations and copies of a pull and a push, client and server
//   together
//
// Prints lines `<name> <value>`. Exit code 77: this processor has no AVX2, which the counts of
// instructions are pinned to.
#include <hwy/targets.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/client/client.h"
#include "ps/store/embedding_store.h"
#include "ps/testing/cluster.h"

namespace {

std::atomic<std::uint64_t> allocations{0};
std::atomic<std::uint64_t> allocated_bytes{0};
std::atomic<std::uint64_t> copied_bytes{0};

void* Counted(std::size_t bytes, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes.fetch_add(bytes, std::memory_order_relaxed);
  void* memory = alignment == 0 ? std::malloc(bytes)
                                : std::aligned_alloc(
                                      alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return Counted(bytes, 0); }
void* operator new[](std::size_t bytes) { return Counted(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return Counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return Counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

// The linker resolves our calls of memcpy and memmove to these (--wrap): copies whose size the
// compiler knows are inlined and not counted.
extern "C" {
void* __real_memcpy(void* to, const void* from, std::size_t bytes);
void* __real_memmove(void* to, const void* from, std::size_t bytes);
void* __wrap_memcpy(void* to, const void* from, std::size_t bytes) {
  copied_bytes.fetch_add(bytes, std::memory_order_relaxed);
  return __real_memcpy(to, from, bytes);
}
void* __wrap_memmove(void* to, const void* from, std::size_t bytes) {
  copied_bytes.fetch_add(bytes, std::memory_order_relaxed);
  return __real_memmove(to, from, bytes);
}

__attribute__((noinline)) void CountedWork(const std::function<void()>& work) { work(); }
}

namespace {

using ps::Key;
using ps::store::EmbeddingStore;

constexpr std::size_t kDim = 16;
constexpr int kPartitionBits = 6;
constexpr int kSkipped = 77;

void Print(const char* name, double value) { std::printf("%s %.3f\n", name, value); }

template <typename Result>
auto Checked(Result result) {
  if (!result.ok()) {
    std::fprintf(stderr, "counts: %s\n", result.status().ToString().c_str());
    std::exit(1);
  }
  return std::move(result).value();
}
void Check(const ps::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "counts: %s\n", status.ToString().c_str());
  std::exit(1);
}

// --- in one store

struct Table {
  explicit Table(std::size_t rows) : keys(rows) {
    ps::store::TableSpec spec;
    spec.name = "counts";
    spec.dim = kDim;
    spec.optimizer = {"adagrad", {}};
    store = Checked(
        EmbeddingStore::Create(spec, kPartitionBits, &budget, &ps::Clock::System(), nullptr));
    std::mt19937_64 random(1);
    for (Key& key : keys) key = random();
    out.resize(rows * kDim);
    std::size_t reserved = rows;
    budget.TryReserve(reserved);
    store->Gather(keys, nullptr, true, &reserved, out.data());
  }

  ps::store::RowBudget budget{0};
  std::unique_ptr<EmbeddingStore> store;
  std::vector<Key> keys;
  std::vector<float> out;
};

constexpr std::size_t kCountedRows = 20'000;

void CountGather() {
  Table table(kCountedRows);
  CountedWork([&] { table.store->Gather(table.keys, nullptr, false, nullptr, table.out.data()); });
  Print("rows", static_cast<double>(kCountedRows));
}

void CountApply() {
  Table table(kCountedRows);
  std::vector<float> grads(kCountedRows * kDim, 1e-3f);
  std::size_t reserved = 0;
  CountedWork([&] { table.store->Apply(table.keys, nullptr, grads.data(), 1.0f, &reserved); });
  Print("rows", static_cast<double>(kCountedRows));
}

void CountMemory() {
  constexpr std::size_t kRows = 500'000;
  Table table(kRows);
  ps::store::TableStats stats = table.store->Stats();
  auto bytes = static_cast<double>(stats.values_bytes + stats.state_bytes + stats.index_bytes);
  Print("bytes_per_row_beyond_values_and_state", bytes / kRows - 2 * kDim * sizeof(float));
}

// --- over a server in this process

constexpr std::size_t kRowDim = 64;
constexpr std::size_t kManyKeys = 8'192;
constexpr std::size_t kFewKeys = 16;
constexpr int kRepeats = 40;

// Means over some requests, after some that are not counted. The least of several rounds: a thread
// that was not scheduled may need one wake-up more, never one less.
void CountRequests(const std::string& name, std::size_t rows, const std::function<void()>& work) {
  double calls = 1e18, bytes = 1e18, copies = 1e18;
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 5; ++i) work();
    std::uint64_t before[] = {allocations, allocated_bytes, copied_bytes};
    for (int i = 0; i < kRepeats; ++i) work();
    calls = std::min(calls, static_cast<double>(allocations - before[0]) / kRepeats);
    bytes = std::min(bytes, static_cast<double>(allocated_bytes - before[1]) / kRepeats);
    copies = std::min(copies, static_cast<double>(copied_bytes - before[2]) / kRepeats);
  }
  auto row_bytes = static_cast<double>(rows * kRowDim * sizeof(float));
  Print(("allocations_of_" + name).c_str(), calls);
  if (rows < kManyKeys) return;
  Print(("allocated_bytes_per_row_byte_of_" + name).c_str(), bytes / row_bytes);
  Print(("copied_bytes_per_row_byte_of_" + name).c_str(), copies / row_bytes);
}

void CountRequests() {
  ps::testing::ClusterOptions options;
  options.unix_sockets = true;
  options.shard_threads = 2;
  options.tables = {ps::testing::Table("default", kRowDim)};
  auto cluster = Checked(ps::testing::Cluster::Start(options));
  ps::client::ClientOptions connecting;
  connecting.servers = {{0, cluster->endpoint(0), 0}};
  connecting.secret = ps::testing::Cluster::Secret();
  connecting.compression = ps::wire::Compression::kNone;
  auto client = Checked(ps::client::Client::Connect(connecting));

  std::vector<Key> keys(kManyKeys);
  std::mt19937_64 random(1);
  for (Key& key : keys) key = random();
  std::vector<float> values(kManyKeys * kRowDim);
  const std::vector<float> grads(kManyKeys * kRowDim, 1e-3f);
  for (std::size_t count : {kFewKeys, kManyKeys}) {
    std::span<const Key> some(keys.data(), count);
    std::string suffix = std::to_string(count) + "_keys";
    CountRequests("pull_of_" + suffix, count, [&] {
      ps::client::RowsPull pull{0, some, values.data(), true};
      Check(client->Pull({&pull, 1}, {}));
    });
    CountRequests("push_of_" + suffix, count, [&] {
      ps::client::RowsPush push{0, some, grads.data()};
      Check(client->Push({&push, 1}, {}, {}));
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if ((hwy::SupportedTargets() & HWY_AVX2) == 0) return kSkipped;
  hwy::SetSupportedTargetsForTest(HWY_AVX2);
  if (what == "gather") {
    CountGather();
  } else if (what == "apply") {
    CountApply();
  } else if (what == "memory") {
    CountMemory();
  } else if (what == "requests") {
    CountRequests();
  } else {
    std::fprintf(stderr, "counts: gather, apply, memory or requests, not \"%s\"\n", what.c_str());
    return 2;
  }
  return 0;
}
