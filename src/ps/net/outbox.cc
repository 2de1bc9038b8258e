#include "ps/net/outbox.h"

#include <algorithm>
#include <utility>

namespace ps::net {

void Outbox::Add(Frame frame) {
  std::lock_guard lock(mutex_);
  if (is_closed_) return;
  unsent_bytes_.fetch_add(frame.header.size() + frame.payload.size(), std::memory_order_relaxed);
  queue_.push_back(std::move(frame));
}

Outbox::State Outbox::Flush() {
  std::vector<Frame> done;  // freed without the lock
  std::unique_lock lock(mutex_);
  if (is_writing_) return State::kDone;  // that writer looks at the queue again
  while (!is_closed_ && !queue_.empty()) {
    std::size_t parts = Gather();
    is_writing_ = true;
    lock.unlock();
    done.clear();
    auto sent = stream_->WriteSome(std::span(gather_).first(parts));
    lock.lock();
    is_writing_ = false;
    if (is_closed_) {
      write_ended_.notify_all();
      return State::kDone;
    }
    if (!sent.ok()) {
      error_ = sent.status();
      return State::kFailed;
    }
    if (*sent == 0) return std::exchange(is_waiting_, true) ? State::kDone : State::kSocketFull;
    done = Sent(*sent);
  }
  return State::kDone;
}

void Outbox::WritableAgain() {
  std::lock_guard lock(mutex_);
  is_waiting_ = false;
}

void Outbox::Close() {
  std::deque<Frame> dropped;  // freed without the lock
  std::unique_lock lock(mutex_);
  is_closed_ = true;
  write_ended_.wait(lock, [this] { return !is_writing_; });
  dropped.swap(queue_);
  first_frame_sent_ = 0;
  unsent_bytes_.store(0, std::memory_order_relaxed);
  lock.unlock();
}

Status Outbox::error() const {
  std::lock_guard lock(mutex_);
  return error_;
}

// Fills gather_ from the front of the queue; returns how many parts.
std::size_t Outbox::Gather() {
  std::size_t parts = 0;
  std::size_t skip = first_frame_sent_;
  auto add = [&](std::byte* data, std::size_t bytes) {
    std::size_t skipped = std::min(skip, bytes);
    skip -= skipped;
    if (bytes > skipped) gather_[parts++] = {data + skipped, bytes - skipped};
  };
  for (auto frame = queue_.begin(); frame != queue_.end() && parts + 2 <= gather_.size(); ++frame) {
    add(frame->header.data(), frame->header.size());
    add(frame->payload.data(), frame->payload.size());
  }
  return parts;
}

// Takes off what is sent wholly.
std::vector<Outbox::Frame> Outbox::Sent(std::size_t bytes) {
  bytes_sent_total_->fetch_add(bytes, std::memory_order_relaxed);
  bytes_sent_.fetch_add(bytes, std::memory_order_relaxed);
  unsent_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  std::vector<Frame> done;
  first_frame_sent_ += bytes;
  while (!queue_.empty()) {
    Frame& frame = queue_.front();
    std::size_t frame_bytes = frame.header.size() + frame.payload.size();
    if (first_frame_sent_ < frame_bytes) break;
    first_frame_sent_ -= frame_bytes;
    done.push_back(std::move(frame));
    queue_.pop_front();
  }
  return done;
}

}  // namespace ps::net
