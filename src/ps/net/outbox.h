#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "ps/net/listener.h"
#include "ps/net/stream.h"

namespace ps::net {

// The frames that wait to go out over one socket, in the order in which they were added. Any thread
// may add and flush: the one that finds nobody writing writes, for all of them, without a lock held
// during the system call; the others go on at once. So the thread that completes a reply also sends
// it, while it is in that core's cache and without waking another thread.
class Outbox {
 public:
  struct Frame {
    std::array<std::byte, wire::kFrameHeaderBytes> header;
    Buffer payload;
    std::shared_ptr<void> until_sent;  // let go when the last byte is written, or never will be
  };

  enum class State {
    kDone,        // nothing left to do for the caller
    kSocketFull,  // the caller must see that Flush is called when the socket takes bytes again
    kFailed,      // error() says why; nothing more will be sent
  };

  // `bytes_sent_total` counts for all boxes and outlives them.
  explicit Outbox(std::atomic<std::uint64_t>* bytes_sent_total)
      : bytes_sent_total_(bytes_sent_total) {}
  // Writes to `stream`, which must stay until Close has returned. Before the first Flush.
  void Open(Stream* stream) { stream_ = stream; }
  // Does not write. Dropped when closed.
  void Add(Frame frame);
  // Writes until all is sent or the socket is full. Only one caller at a time is told kSocketFull,
  // until it calls WritableAgain.
  State Flush();
  void WritableAgain();
  // Drops what is unsent and waits for a write under way; nothing is written afterwards.
  void Close();

  Status error() const;
  // Of frames that are not wholly sent.
  std::size_t unsent_bytes() const { return unsent_bytes_.load(std::memory_order_relaxed); }
  std::uint64_t bytes_sent() const { return bytes_sent_.load(std::memory_order_relaxed); }

 private:
  std::size_t Gather();
  std::vector<Frame> Sent(std::size_t bytes);

  std::atomic<std::uint64_t>* const bytes_sent_total_;
  Stream* stream_ = nullptr;
  mutable std::mutex mutex_;
  std::condition_variable write_ended_;
  std::deque<Frame> queue_;           // frames stay where they are while others are added
  std::size_t first_frame_sent_ = 0;  // bytes of queue_.front()
  bool is_writing_ = false;
  bool is_waiting_ = false;  // somebody was told kSocketFull
  bool is_closed_ = false;
  Status error_;
  std::atomic<std::size_t> unsent_bytes_{0};
  std::atomic<std::uint64_t> bytes_sent_{0};
  std::array<iovec, 64> gather_;
};

}  // namespace ps::net
