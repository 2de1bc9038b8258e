#pragma once

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "ps/base/metrics.h"
#include "ps/store/embedding_store.h"
#include "ps/store/page_pool.h"
#include "ps/store/weight_store.h"

namespace ps::server {

// How long requests took from their last frame's arrival to their answer.
struct LatencyByType {
  LatencyHistogram pull;
  LatencyHistogram push;
  LatencyHistogram control;
};

// One thread of a server with the rows and chunks of its partitions, which one thread at a time
// touches: this one, or another that found nothing under way here and has so little to do that
// waking this one would take longer. What one thread posts or runs here happens in that order.
class Shard {
 public:
  explicit Shard(int index) : index_(index), context_(1) {}
  ~Shard() { StopAndJoin(); }
  Shard(const Shard&) = delete;

  void Start();
  // What is posted and has not run stays posted; see Drain. Not from the shard's own thread.
  void StopAndJoin();
  // After StopAndJoin, on the caller's thread: runs what was posted; how many handlers that were.
  std::size_t Drain();

  // Runs `function` on the shard's thread, which then owns what the shard holds.
  template <typename Function>
  void Post(Function&& function) {
    posted_.fetch_add(1, std::memory_order_relaxed);
    asio::post(context_, [this, function = std::forward<Function>(function)]() mutable {
      std::lock_guard own(in_use_);
      posted_.fetch_sub(1, std::memory_order_relaxed);
      function();
    });
  }
  // Runs `function` at once on the calling thread, unless something else is posted or under way:
  // then it does nothing and returns false. Not from within such a function.
  template <typename Function>
  bool TryRun(Function&& function) {
    if (posted_.load(std::memory_order_relaxed) > 0) return false;
    std::unique_lock own(in_use_, std::try_to_lock);
    if (!own.owns_lock() || posted_.load(std::memory_order_relaxed) > 0) return false;
    function();
    return true;
  }

  int index() const { return index_; }
  asio::io_context& context() { return context_; }
  LatencyByType& latency() { return latency_; }  // thread-safe

  // --- within Post and TryRun only
  store::EmbeddingStore& table(TableId id) { return *tables_[id]; }
  std::size_t table_count() const { return tables_.size(); }
  void AddTable(std::unique_ptr<store::EmbeddingStore> table) {
    tables_.push_back(std::move(table));
  }
  // The table that was there comes back. `pool`: the new one's, of further tables too.
  std::unique_ptr<store::EmbeddingStore> ReplaceTable(
      TableId id, std::unique_ptr<store::EmbeddingStore> table,
      const std::shared_ptr<store::PagePool>& pool) {
    page_pool_ = pool;
    return std::exchange(tables_[id], std::move(table));
  }
  const std::shared_ptr<store::PagePool>& page_pool() { return page_pool_; }
  store::WeightStore& weights() { return *weights_; }
  bool has_weights() const { return weights_ != nullptr; }
  void SetWeightOptimizer(const optimizers::Optimizer* optimizer) {
    weights_ = std::make_unique<store::WeightStore>(optimizer);
  }
  void ReplaceWeights(std::unique_ptr<store::WeightStore> weights,
                      std::shared_ptr<const optimizers::Optimizer> optimizer) {
    weights_ = std::move(weights);
    loaded_weight_optimizer_ = std::move(optimizer);
  }

 private:
  const int index_;
  asio::io_context context_;
  std::atomic<std::size_t> posted_{0};  // of which none has begun
  std::mutex in_use_;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work_;
  std::shared_ptr<store::PagePool> page_pool_ = std::make_shared<store::PagePool>();
  std::vector<std::unique_ptr<store::EmbeddingStore>> tables_;
  // Of weights that were loaded; the definer keeps the first definition's.
  std::shared_ptr<const optimizers::Optimizer> loaded_weight_optimizer_;
  std::unique_ptr<store::WeightStore> weights_;  // with the first definition
  LatencyByType latency_;
  std::thread thread_;
};

}  // namespace ps::server
