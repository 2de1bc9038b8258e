#pragma once

#include <array>
#include <asio/io_context.hpp>
#include <atomic>
#include <memory>
#include <vector>

#include "ps/net/async_read.h"
#include "ps/net/listener.h"
#include "ps/net/listener_core.h"
#include "ps/net/outbox.h"
#include "ps/net/shared_memory.h"
#include "ps/net/stream.h"

namespace ps::net {

// A payload on its way in: memory grows with the bytes that arrived, by doubling, from
// `first_bytes` on.
class IncomingPayload {
 public:
  // Empty, to be filled with `bytes`. first_bytes: what may be taken before anything has arrived.
  void Begin(std::size_t bytes, std::size_t first_bytes);
  std::size_t missing() const { return bytes_ - arrived_; }
  std::span<std::byte> free();  // where the next bytes go; not empty while some are missing
  void Arrived(std::size_t bytes) { arrived_ += bytes; }
  Buffer Take() { return std::move(buffer_); }

 private:
  Buffer buffer_;
  std::size_t bytes_ = 0;
  std::size_t arrived_ = 0;
};

// One authenticated connection. Everything but Send, SendError and Close happens on its context's
// thread. Small frames come in by one read into `ahead_`; what is missing of a larger payload is
// read into its own memory. Replies go out by direct non-blocking writes of several frames at once,
// by the thread that sends them (outbox.h); the reactor is asked only when the socket is full.
class Connection final : public ServerConnection {
 public:
  Connection(std::shared_ptr<ListenerCore> core, asio::io_context& context, int context_index,
             std::uint64_t id, bool over_unix, std::string peer);
  ~Connection() override;

  // Before Start. The memory's descriptor, for the peer's welcome; -1 when there is none to share.
  int OfferSharedMemory();
  // Takes over an open socket and its stream and begins to read. On the context's thread.
  void Start(Fd fd, std::unique_ptr<Stream> stream);
  // Closes from another thread while the context does not run; no OnClose.
  void CloseWithoutContext();

  // Closes a connection that is amid a request, or has replies that nobody takes, and moved no byte
  // since `kStallChecks` calls. Called at even intervals.
  void CheckStalled();
  static constexpr int kStallChecks = 4;

  void Send(wire::FrameHeader header, Buffer payload, std::shared_ptr<void> until_sent) override;
  void SendError(std::uint64_t request_id, const Status& status) override;
  void Close() override;
  asio::io_context& context() override { return context_; }
  int context_index() const override { return context_index_; }
  std::uint64_t id() const override { return id_; }
  const std::string& peer() const override { return peer_; }
  std::span<std::byte> shared_memory() const override { return shared_memory_.bytes(); }

 private:
  std::shared_ptr<Connection> Self();
  Outbox::Frame Seal(wire::FrameHeader header, Buffer payload);
  void Fail(Status why);
  void FailBadFrame(const Status& why);

  void Consume();
  bool TakeFrameFromAhead();
  Status BeginFrame();
  void PayloadArrived(std::size_t bytes);
  Status Deliver();
  void ReadOn();
  void OnRead(bool into_payload, const Result<std::size_t>& got);
  bool must_pause() const;
  bool PauseReading();
  void ResumeReading();

  void Flush();
  void WaitUntilWritable();
  template <typename Function>
  void OnOwnThread(Function function);

  const std::shared_ptr<ListenerCore> core_;
  asio::io_context& context_;
  const int context_index_;
  const std::uint64_t id_;
  const bool over_unix_;
  const std::string peer_;
  std::atomic<bool> open_{true};
  // Gone as soon as the connection is closed: a handle kept by others may outlive the context.
  std::unique_ptr<StreamSocket> socket_;
  std::unique_ptr<Stream> stream_;
  SharedMemory shared_memory_;

  // Reading.
  std::unique_ptr<std::byte[]> ahead_;
  std::size_t ahead_begin_ = 0;
  std::size_t ahead_end_ = 0;
  bool in_payload_ = false;
  bool reading_ = false;                // a read is under way
  bool amid_message_ = false;           // the last frame said that more of it follow
  std::atomic<bool> consuming_{false};  // own thread: small replies are gathered until it ends
  wire::FrameHeader header_;
  IncomingPayload payload_;
  std::size_t largest_payload_ = 0;  // that has arrived whole
  wire::RunningChecksum checksum_;

  // Messages delivered whose last reply frame has not been handed to Send.
  std::atomic<std::int64_t> unanswered_{0};
  std::atomic<bool> is_paused_{false};

  // Writing.
  wire::PayingCompressor compressor_;
  Outbox outbox_;

  // CheckStalled.
  std::uint64_t bytes_received_ = 0;
  std::uint64_t bytes_moved_at_check_ = 0;
  int checks_without_bytes_ = 0;
};

}  // namespace ps::net
