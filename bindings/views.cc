#include "bindings/views.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "ps/base/clock.h"
#include "ps/base/hash.h"
#include "ps/base/limits.h"
#include "ps/store/embedding_store.h"
#include "ps/store/update_counts.h"
#include "ps/store/weight_store.h"

// Each call holds the GIL from its beginning to its end: that is what makes these single-threaded
// classes safe to share between Python's threads.

namespace nb = nanobind;

namespace ps::bindings {
namespace {

constexpr int kPartitionBits = 4;

using KeysOut = NumpyArray<Key>;
using FloatsOut = NumpyArray<float>;
using Params = std::map<std::string, double>;

template <typename T, typename Fill>
NumpyArray<T> Filled(std::size_t count, Fill&& fill) {
  auto values = std::make_unique_for_overwrite<T[]>(count);
  fill(values.get());
  return MakeArray(std::move(values), count);
}

std::span<const Key> SpanOf(const KeyArray& keys) { return {keys.data(), keys.shape(0)}; }
std::span<const float> SpanOf(const FlatFloats& floats) { return {floats.data(), floats.shape(0)}; }

Initializer InitializerOf(const std::string& init, double scale) {
  return {Check(ParseInitKind(init)), static_cast<float>(scale)};
}

// One table's rows, with a row budget of its own.
class EmbeddingRows {
 public:
  EmbeddingRows(const std::string& name, std::uint32_t dim, const std::string& init, double scale,
                const std::string& optimizer, Params params, std::uint64_t seed,
                std::uint64_t rows_max)
      : budget_(rows_max) {
    store::TableSpec spec{
        name, dim, {optimizer, std::move(params)}, InitializerOf(init, scale), seed};
    store_ = Check(
        store::EmbeddingStore::Create(std::move(spec), kPartitionBits, &budget_, &Clock::System()));
  }

  std::size_t size() const { return store_->Stats().rows; }

  void Gather(const KeyArray& keys, const RowsOut& out, bool create) {
    CheckRows(keys, out.shape(0), out.shape(1));
    std::size_t reserved = create ? Reserve(SpanOf(keys)) : 0;
    store_->Gather(SpanOf(keys), nullptr, create, &reserved, out.data());
    budget_.Return(reserved);
  }
  // Keys are distinct.
  void Apply(const KeyArray& keys, const RowsIn& grads) {
    CheckRows(keys, grads.shape(0), grads.shape(1));
    std::size_t reserved = Reserve(SpanOf(keys));
    store_->Apply(SpanOf(keys), nullptr, grads.data(), 1.0f, &reserved);
    budget_.Return(reserved);
  }
  // Overwrites rows, or makes them. Without states they start fresh.
  void Set(const KeyArray& keys, const FlatFloats& counts, const Array<const UnixDay, 1>& last_days,
           const RowsIn& values, const RowsIn& states) {
    CheckRows(keys, values.shape(0), values.shape(1));
    const std::size_t state_floats = states.shape(1);
    const std::size_t n = keys.shape(0);
    if (counts.shape(0) != n || last_days.shape(0) != n || states.shape(0) != n ||
        (state_floats != 0 && state_floats != StateFloats())) {
      Throw(InvalidArgument("table '" + store_->spec().name +
                            "': counts, days or states do not fit the " + std::to_string(n) +
                            " keys"));
    }
    std::size_t reserved = Reserve(SpanOf(keys));
    for (std::size_t i = 0; i < n; ++i) {
      store_->Set(keys.data()[i], {values.data() + i * values.shape(1), values.shape(1)},
                  counts.data()[i], last_days.data()[i],
                  {states.data() + i * state_floats, state_floats}, &reserved);
    }
    budget_.Return(reserved);
  }
  std::size_t Remove(const KeyArray& keys) {
    auto all = SpanOf(keys);
    return static_cast<std::size_t>(
        std::count_if(all.begin(), all.end(), [this](Key key) { return store_->Remove(key); }));
  }

  // 0 for keys without a row.
  FloatsOut Counts(const KeyArray& keys) const {
    return Filled<float>(keys.shape(0), [&](float* out) {
      for (Key key : SpanOf(keys)) {
        const store::RowHeader* header = nullptr;
        const float* values = nullptr;
        *out++ = store_->Find(key, &header, &values) ? header->count : 0.0f;
      }
    });
  }
  NumpyArray<bool> Contains(const KeyArray& keys) const {
    return Filled<bool>(keys.shape(0), [&](bool* out) {
      for (Key key : SpanOf(keys)) {
        const store::RowHeader* header = nullptr;
        const float* values = nullptr;
        *out++ = store_->Find(key, &header, &values);
      }
    });
  }
  void Decay(double factor) { store_->DecayStep(static_cast<float>(factor), 0); }
  std::uint64_t Prune(double min_count) {
    std::uint64_t pruned = 0;
    store_->PruneStep(static_cast<float>(min_count), 0, &pruned);
    return pruned;
  }
  void Clear() { store_->Clear(); }

  // (keys, counts, last days, values flat, states flat) of all rows, in no order.
  std::tuple<KeysOut, FloatsOut, NumpyArray<UnixDay>, FloatsOut, FloatsOut> Rows() const {
    const std::size_t n = size();
    const std::size_t dim = store_->spec().dim;
    auto keys = std::make_unique_for_overwrite<Key[]>(n);
    auto counts = std::make_unique_for_overwrite<float[]>(n);
    auto days = std::make_unique_for_overwrite<UnixDay[]>(n);
    auto values = std::make_unique_for_overwrite<float[]>(n * dim);
    auto states = std::make_unique_for_overwrite<float[]>(n * StateFloats());
    std::size_t i = 0;
    for (PartitionId partition = 0; partition < 1u << kPartitionBits; ++partition) {
      store_->VisitPartition(
          partition, [&](const store::RowHeader& header, const float* value, const float* state) {
            keys[i] = header.key;
            counts[i] = header.count;
            days[i] = header.last_day;
            std::copy_n(value, dim, values.get() + i * dim);
            std::copy_n(state, StateFloats(), states.get() + i * StateFloats());
            ++i;
          });
    }
    return {MakeArray(std::move(keys), n), MakeArray(std::move(counts), n),
            MakeArray(std::move(days), n), MakeArray(std::move(values), n * dim),
            MakeArray(std::move(states), n * StateFloats())};
  }

  std::map<std::string, std::uint64_t> Stats() const {
    store::TableStats stats = store_->Stats();
    return {{"rows", stats.rows},
            {"created_total", stats.created_total},
            {"pruned_total", stats.pruned_total},
            {"values_bytes", stats.values_bytes},
            {"state_bytes", stats.state_bytes},
            {"index_bytes", stats.index_bytes}};
  }

 private:
  std::size_t StateFloats() const { return store_->optimizer().StateFloats(store_->spec().dim); }

  void CheckRows(const KeyArray& keys, std::size_t rows, std::size_t dim) const {
    if (rows == keys.shape(0) && dim == store_->spec().dim) return;
    Throw(InvalidArgument("table '" + store_->spec().name + "': an array of shape (" +
                          std::to_string(rows) + ", " + std::to_string(dim) + ") for " +
                          std::to_string(keys.shape(0)) + " keys of dim " +
                          std::to_string(store_->spec().dim)));
  }

  // Rows for the keys that have none, all or nothing.
  std::size_t Reserve(std::span<const Key> keys) {
    const std::size_t missing = store_->CountMissing(keys);
    if (budget_.TryReserve(missing)) return missing;
    Throw(ResourceExhausted("table '" + store_->spec().name + "': " + std::to_string(missing) +
                            " new rows do not fit: it holds " + std::to_string(budget_.used()) +
                            " of max_embeddings = " + std::to_string(budget_.rows_max()) +
                            "; prune it or raise the limit"));
  }

  store::RowBudget budget_;
  std::unique_ptr<store::EmbeddingStore> store_;
};

// Dense tensors by name, cut into chunks as on a server.
class WeightChunks {
 public:
  WeightChunks(const std::string& optimizer, Params params, std::uint64_t seed)
      : seed_(seed),
        optimizer_(Check(optimizers::Optimizer::Create({optimizer, std::move(params)}))),
        store_(optimizer_.get()) {}

  void Init(const std::string& name, std::size_t floats, const std::string& init, double scale) {
    const Initializer initializer = InitializerOf(init, scale);
    const Tensor& tensor = Renew(name, floats);
    ForEachChunk(tensor, [&](store::ChunkId id, std::size_t, std::size_t count) {
      store_.AssignInitial(id, initializer, seed_, HashBytes(name), count);
    });
  }
  void Assign(const std::string& name, const FlatFloats& values) {
    ForEachChunk(Renew(name, values.shape(0)),
                 [&](store::ChunkId id, std::size_t first, std::size_t count) {
                   store_.Assign(id, SpanOf(values).subspan(first, count));
                 });
  }
  void Restore(const std::string& name, const FlatFloats& values, const FlatFloats& state) {
    const Tensor tensor{0, values.shape(0)};
    std::size_t state_floats = 0;
    ForEachChunk(tensor, [&](store::ChunkId, std::size_t, std::size_t count) {
      state_floats += optimizer_->StateFloats(count);
    });
    if (state_floats != state.shape(0)) {
      Throw(InvalidArgument("dense weight '" + name + "': a state of " +
                            std::to_string(state.shape(0)) + " floats; " +
                            std::to_string(state_floats) + " are needed"));
    }
    std::size_t taken = 0;
    ForEachChunk(Renew(name, values.shape(0)),
                 [&](store::ChunkId id, std::size_t first, std::size_t count) {
                   const std::size_t floats = optimizer_->StateFloats(count);
                   store_.Restore(id, SpanOf(values).subspan(first, count),
                                  SpanOf(state).subspan(taken, floats));
                   taken += floats;
                 });
  }
  void Apply(const std::string& name, const FlatFloats& grad) {
    const Tensor& tensor = Find(name);
    if (grad.shape(0) != tensor.floats) {
      Throw(InvalidArgument("dense weight '" + name + "' has " + std::to_string(tensor.floats) +
                            " values, its gradient " + std::to_string(grad.shape(0))));
    }
    ForEachChunk(tensor, [&](store::ChunkId id, std::size_t first, std::size_t count) {
      store_.Apply(id, SpanOf(grad).subspan(first, count), 1.0f);
    });
  }
  void Remove(const std::string& name) {
    store_.Remove(Find(name).id);
    tensors_.erase(name);
  }

  FloatsOut Values(const std::string& name) const {
    const Tensor& tensor = Find(name);
    return Filled<float>(tensor.floats, [&](float* out) {
      ForEachChunk(tensor, [&](store::ChunkId id, std::size_t, std::size_t) {
        out = std::ranges::copy(store_.Get(id).values, out).out;
      });
    });
  }
  // Of each chunk in turn.
  FloatsOut State(const std::string& name) const {
    const Tensor& tensor = Find(name);
    std::vector<float> all;
    ForEachChunk(tensor, [&](store::ChunkId id, std::size_t, std::size_t) {
      auto state = store_.Get(id).state;
      all.insert(all.end(), state.begin(), state.end());
    });
    return Filled<float>(all.size(), [&](float* out) { std::ranges::copy(all, out); });
  }
  // Changes since the tensor was made.
  std::uint64_t Version(const std::string& name) const {
    return store_.Get({Find(name).id, 0}).version;
  }
  std::size_t memory_bytes() const { return store_.memory_bytes(); }

 private:
  struct Tensor {
    TensorId id;
    std::size_t floats;
  };

  // fn(chunk, first float, floats); a tensor without values has one empty chunk.
  template <typename Fn>
  static void ForEachChunk(const Tensor& tensor, Fn&& fn) {
    std::size_t first = 0;
    std::uint32_t chunk = 0;
    do {
      const std::size_t count = std::min(tensor.floats - first, limits::kTensorChunkFloats);
      fn(store::ChunkId{tensor.id, chunk++}, first, count);
      first += count;
    } while (first < tensor.floats);
  }

  const Tensor& Find(const std::string& name) const {
    auto found = tensors_.find(name);
    if (found == tensors_.end()) Throw(NotFound("dense weight '" + name + "' does not exist"));
    return found->second;
  }
  // A tensor keeps its number for life, so that its versions go on.
  const Tensor& Renew(const std::string& name, std::size_t floats) {
    auto [found, is_new] = tensors_.try_emplace(name, Tensor{next_id_, floats});
    if (is_new) ++next_id_;
    if (found->second.floats != floats) {
      Throw(InvalidArgument("dense weight '" + name + "' has " +
                            std::to_string(found->second.floats) + " values, not " +
                            std::to_string(floats)));
    }
    return found->second;
  }

  const std::uint64_t seed_;
  const std::unique_ptr<optimizers::Optimizer> optimizer_;
  store::WeightStore store_;
  std::map<std::string, Tensor> tensors_;
  TensorId next_id_ = 0;
};

class Counts {
 public:
  explicit Counts(double default_count) : counts_(static_cast<float>(default_count)) {}

  // Repeated keys count repeatedly.
  void Add(const KeyArray& keys, double by) {
    for (Key key : SpanOf(keys)) counts_.Add(key, static_cast<float>(by));
  }
  FloatsOut Get(const KeyArray& keys) const {
    return Filled<float>(keys.shape(0), [&](float* out) {
      for (Key key : SpanOf(keys)) *out++ = counts_.Get(key);
    });
  }
  void Set(Key key, double count) { counts_.Set(key, static_cast<float>(count)); }
  bool Contains(Key key) const { return counts_.Contains(key); }
  bool Remove(Key key) { return counts_.Remove(key); }
  void Decay(double factor) { counts_.Decay(static_cast<float>(factor)); }
  KeysOut Prune(double min_count) {
    std::vector<Key> keys = counts_.Prune(static_cast<float>(min_count));
    return Filled<Key>(keys.size(), [&](Key* out) { std::ranges::copy(keys, out); });
  }
  std::pair<KeysOut, FloatsOut> All() const {
    auto all = counts_.All();
    auto keys = std::make_unique_for_overwrite<Key[]>(all.size());
    auto counts = std::make_unique_for_overwrite<float[]>(all.size());
    for (std::size_t i = 0; i < all.size(); ++i) std::tie(keys[i], counts[i]) = all[i];
    return {MakeArray(std::move(keys), all.size()), MakeArray(std::move(counts), all.size())};
  }
  void Clear() { counts_.Clear(); }
  std::uint64_t size() const { return counts_.size(); }

 private:
  store::UpdateCounts counts_;
};

}  // namespace

void BindViews(nb::module_& module) {
  nb::class_<EmbeddingRows>(module, "EmbeddingRows")
      .def(nb::init<const std::string&, std::uint32_t, const std::string&, double,
                    const std::string&, Params, std::uint64_t, std::uint64_t>(),
           nb::arg("name"), nb::arg("dim"), nb::arg("init"), nb::arg("init_scale"),
           nb::arg("optimizer"), nb::arg("params"), nb::arg("seed"), nb::arg("rows_max"))
      .def("gather", &EmbeddingRows::Gather, nb::arg("keys").noconvert(),
           nb::arg("out").noconvert(), nb::arg("create"))
      .def("apply", &EmbeddingRows::Apply, nb::arg("keys").noconvert(),
           nb::arg("grads").noconvert())
      .def("set", &EmbeddingRows::Set, nb::arg("keys").noconvert(), nb::arg("counts").noconvert(),
           nb::arg("last_days").noconvert(), nb::arg("values").noconvert(),
           nb::arg("states").noconvert())
      .def("remove", &EmbeddingRows::Remove, nb::arg("keys").noconvert())
      .def("counts", &EmbeddingRows::Counts, nb::arg("keys").noconvert())
      .def("contains", &EmbeddingRows::Contains, nb::arg("keys").noconvert())
      .def("decay", &EmbeddingRows::Decay, nb::arg("factor"))
      .def("prune", &EmbeddingRows::Prune, nb::arg("min_count"))
      .def("clear", &EmbeddingRows::Clear)
      .def("rows", &EmbeddingRows::Rows)
      .def("stats", &EmbeddingRows::Stats)
      .def("__len__", &EmbeddingRows::size);
  nb::class_<WeightChunks>(module, "WeightChunks")
      .def(nb::init<const std::string&, Params, std::uint64_t>(), nb::arg("optimizer"),
           nb::arg("params"), nb::arg("seed"))
      .def("init", &WeightChunks::Init, nb::arg("name"), nb::arg("floats"), nb::arg("init"),
           nb::arg("scale"))
      .def("assign", &WeightChunks::Assign, nb::arg("name"), nb::arg("values").noconvert())
      .def("restore", &WeightChunks::Restore, nb::arg("name"), nb::arg("values").noconvert(),
           nb::arg("state").noconvert())
      .def("apply", &WeightChunks::Apply, nb::arg("name"), nb::arg("grad").noconvert())
      .def("remove", &WeightChunks::Remove, nb::arg("name"))
      .def("values", &WeightChunks::Values, nb::arg("name"))
      .def("state", &WeightChunks::State, nb::arg("name"))
      .def("version", &WeightChunks::Version, nb::arg("name"))
      .def("memory_bytes", &WeightChunks::memory_bytes);
  nb::class_<Counts>(module, "UpdateCounts")
      .def(nb::init<double>(), nb::arg("default_count"))
      .def("add", &Counts::Add, nb::arg("keys").noconvert(), nb::arg("by"))
      .def("get", &Counts::Get, nb::arg("keys").noconvert())
      .def("set", &Counts::Set, nb::arg("key"), nb::arg("count"))
      .def("contains", &Counts::Contains, nb::arg("key"))
      .def("remove", &Counts::Remove, nb::arg("key"))
      .def("decay", &Counts::Decay, nb::arg("factor"))
      .def("prune", &Counts::Prune, nb::arg("min_count"))
      .def("all", &Counts::All)
      .def("clear", &Counts::Clear)
      .def("__len__", &Counts::size);
}

}  // namespace ps::bindings
