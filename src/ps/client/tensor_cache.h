#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "ps/client/client.h"

namespace ps::client {

// The newest value of each dense tensor that a client has pulled. Thread-safe.
class TensorCache {
 public:
  std::shared_ptr<const TensorValue> Get(TensorId tensor) const {  // null: none
    std::lock_guard lock(mutex_);
    return tensor < values_.size() ? values_[tensor] : nullptr;
  }
  void Put(TensorId tensor, std::shared_ptr<const TensorValue> value) {
    std::lock_guard lock(mutex_);
    if (values_.size() <= tensor) values_.resize(tensor + 1);
    values_[tensor].swap(value);
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const TensorValue>> values_;
};

}  // namespace ps::client
