#include "ps/net/server_connection.h"

#include <algorithm>
#include <asio/post.hpp>
#include <cstring>
#include <utility>

#include "ps/wire/messages.h"

namespace ps::net {

using wire::FrameHeader;
using wire::MessageType;

namespace {

constexpr std::size_t kServerReadAheadBytes = 16'384;
// Replies that may wait for the next frames of the same read.
constexpr std::size_t kGatheredBytesMax = 65'536;
// Longer payloads are hashed piece by piece, as they come.
constexpr std::size_t kHashAtOnceBytesMax = 65'536;

Status CheckType(const FrameHeader& header) {
  switch (header.type) {
    case MessageType::kPull:
    case MessageType::kPush:
    case MessageType::kReplicate:
      return Status::Ok();
    case MessageType::kControl:
      if (header.raw_bytes <= limits::kControlPayloadBytesMax) return Status::Ok();
      return DataCorruption("control message of " + std::to_string(header.raw_bytes) +
                            " bytes, at most " + std::to_string(limits::kControlPayloadBytesMax));
    default:
      return DataCorruption("a server does not take messages of type " +
                            std::to_string(static_cast<int>(header.type)));
  }
}

bool IsCompressed(const FrameHeader& header) {
  return (header.flags & (wire::kLz4 | wire::kZstd)) != 0;
}

bool IsHashedPieceByPiece(const FrameHeader& header) {
  return (header.flags & wire::kChecksummed) != 0 && header.payload_bytes > kHashAtOnceBytesMax;
}

}  // namespace

Buffer::Buffer(std::size_t bytes)
    : words_(new std::uint64_t[(bytes + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t)]),
      bytes_(bytes) {}

Buffer::Buffer(Buffer&& other) noexcept
    : words_(std::move(other.words_)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  words_ = std::move(other.words_);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

std::byte* Buffer::data() { return reinterpret_cast<std::byte*>(words_.get()); }
const std::byte* Buffer::data() const { return reinterpret_cast<const std::byte*>(words_.get()); }
std::size_t Buffer::size() const { return bytes_; }
std::span<std::byte> Buffer::span() { return {data(), bytes_}; }
std::span<const std::byte> Buffer::span() const { return {data(), bytes_}; }

void IncomingPayload::Begin(std::size_t bytes, std::size_t first_bytes) {
  bytes_ = bytes;
  arrived_ = 0;
  buffer_ = bytes == 0 ? Buffer() : Buffer(std::min(bytes, first_bytes));
}

std::span<std::byte> IncomingPayload::free() {
  if (arrived_ == buffer_.size() && arrived_ < bytes_) {
    Buffer larger(std::min(bytes_, 2 * arrived_));
    std::memcpy(larger.data(), buffer_.data(), arrived_);
    buffer_ = std::move(larger);
  }
  return buffer_.span().subspan(arrived_);
}

Connection::Connection(std::shared_ptr<ListenerCore> core, asio::io_context& context,
                       int context_index, std::uint64_t id, bool over_unix, std::string peer)
    : core_(std::move(core)),
      context_(context),
      context_index_(context_index),
      id_(id),
      over_unix_(over_unix),
      peer_(std::move(peer)),
      ahead_(new std::byte[kServerReadAheadBytes]),
      outbox_(&core_->bytes_sent_total) {}

Connection::~Connection() { core_->shared_memory_bytes.fetch_sub(shared_memory_.bytes().size()); }

int Connection::OfferSharedMemory() {
  const std::size_t bytes = core_->options.shared_memory_bytes;
  if (!over_unix_ || bytes == 0) return -1;
  const std::size_t before = core_->shared_memory_bytes.fetch_add(bytes);
  Result<SharedMemory> memory = before + bytes <= limits::kSharedMemoryBytesTotal
                                    ? SharedMemory::Create(bytes)
                                    : ResourceExhausted("all is shared");
  if (!memory.ok()) {
    core_->shared_memory_bytes.fetch_sub(bytes);
    return -1;
  }
  shared_memory_ = std::move(memory).value();
  return shared_memory_.descriptor();
}

std::shared_ptr<Connection> Connection::Self() {
  return std::static_pointer_cast<Connection>(shared_from_this());
}

void Connection::Start(Fd fd, std::unique_ptr<Stream> stream) {
  if (!open_) return;
  shared_memory_.CloseDescriptor();
  stream_ = std::move(stream);
  socket_ = std::make_unique<StreamSocket>(context_);
  asio::error_code error;
  int family = over_unix_ ? AF_UNIX : AF_INET;  // of no consequence: the socket is open already
  socket_->assign(asio::generic::stream_protocol(family, 0), fd.get(), error);
  if (error) return Fail(ConnectionError("cannot watch a socket: " + error.message()));
  (void)fd.release();
  outbox_.Open(stream_.get());
  ReadOn();
}

void Connection::CloseWithoutContext() {
  open_ = false;
  outbox_.Close();
  stream_.reset();
  socket_.reset();
  core_->Forget(id_);
}

void Connection::Close() {
  asio::post(context_,
             [self = Self()] { self->Fail(Status(StatusCode::kClosed, "closed by this side")); });
}

void Connection::Fail(Status why) {
  if (!open_.exchange(false)) return;
  outbox_.Close();
  stream_.reset();
  socket_.reset();
  core_->Forget(id_);
  asio::post(context_, [self = Self(), why = std::move(why)] {
    if (!self->core_->detached()) self->core_->handler->OnClose(self, why);
  });
}

void Connection::FailBadFrame(const Status& why) {
  core_->bad_frames_total.fetch_add(1, std::memory_order_relaxed);
  consuming_ = false;
  Flush();  // the replies to the frames before it
  Fail(why);
}

// --- reading

// Whole frames out of `ahead_`, then one write for all their replies, then the next read.
void Connection::Consume() {
  bool may_have_more = true;  // whole frames: no read may be waited for while there are
  while (open_ && may_have_more) {
    consuming_ = true;
    while (open_ && !must_pause() && may_have_more) may_have_more = TakeFrameFromAhead();
    consuming_ = false;
    Flush();
    if (may_have_more && PauseReading()) return;
  }
  if (open_) ReadOn();
}

// False when there is not enough of it, or the connection was closed over it.
bool Connection::TakeFrameFromAhead() {
  if (!in_payload_) {
    if (ahead_end_ - ahead_begin_ < wire::kFrameHeaderBytes) return false;
    if (Status status = BeginFrame(); !status.ok()) {
      FailBadFrame(status);
      return false;
    }
  }
  while (payload_.missing() > 0 && ahead_begin_ < ahead_end_) {
    std::span<std::byte> free = payload_.free();
    std::size_t take = std::min(free.size(), ahead_end_ - ahead_begin_);
    std::memcpy(free.data(), ahead_.get() + ahead_begin_, take);
    ahead_begin_ += take;
    PayloadArrived(take);
  }
  if (payload_.missing() > 0) return false;
  Status status = Deliver();
  if (!status.ok()) FailBadFrame(status);
  return status.ok();
}

Status Connection::BeginFrame() {
  std::span<const std::byte, wire::kFrameHeaderBytes> bytes(ahead_.get() + ahead_begin_,
                                                            wire::kFrameHeaderBytes);
  PS_ASSIGN_OR_RETURN(header_, wire::DecodeHeader(bytes, core_->options.payload_bytes_max));
  PS_RETURN_IF_ERROR(CheckType(header_));
  ahead_begin_ += wire::kFrameHeaderBytes;
  in_payload_ = true;
  payload_.Begin(header_.payload_bytes, std::max(largest_payload_, limits::kPayloadFirstBytes));
  if (IsHashedPieceByPiece(header_)) checksum_.Reset();
  return Status::Ok();
}

void Connection::PayloadArrived(std::size_t bytes) {
  if (IsHashedPieceByPiece(header_)) checksum_.Add(payload_.free().first(bytes));
  payload_.Arrived(bytes);
}

Status Connection::Deliver() {
  in_payload_ = false;
  Frame frame{header_, payload_.Take()};
  bool matches = IsHashedPieceByPiece(header_)
                     ? checksum_.value() == header_.payload_checksum
                     : wire::CheckPayload(header_, frame.payload.span()).ok();
  if (!matches) return DataCorruption("frame payload: checksum does not match");
  largest_payload_ = std::max<std::size_t>(largest_payload_, header_.payload_bytes);
  if (IsCompressed(header_)) {
    Buffer raw(header_.raw_bytes);
    PS_RETURN_IF_ERROR(wire::Decompress(header_, frame.payload.span(), raw.span()));
    frame.payload = std::move(raw);
    frame.header.payload_bytes = header_.raw_bytes;
    frame.header.flags &= ~(wire::kLz4 | wire::kZstd | wire::kChecksummed);
  }
  amid_message_ = (header_.flags & wire::kMore) != 0;
  if (!amid_message_) unanswered_.fetch_add(1, std::memory_order_relaxed);
  core_->handler->OnFrame(Self(), std::move(frame));
  return Status::Ok();
}

// The peer takes no replies, or has sent more requests than may wait for one.
bool Connection::must_pause() const {
  return outbox_.unsent_bytes() > core_->options.unsent_bytes_max ||
         unanswered_.load(std::memory_order_relaxed) >= core_->options.unanswered_max;
}

// True when reading has to wait; whoever sends what it waits for sees is_paused_ and resumes.
bool Connection::PauseReading() {
  if (!must_pause()) return false;
  is_paused_ = true;
  return must_pause() || !is_paused_.exchange(false);
}

void Connection::ResumeReading() {
  if (!is_paused_ || must_pause() || !is_paused_.exchange(false)) return;
  asio::post(context_, [self = Self()] {
    if (self->open_) self->Consume();
  });
}

// One read, unless one is under way or reading is paused.
void Connection::ReadOn() {
  if (reading_ || PauseReading()) return;
  if (ahead_begin_ == ahead_end_) ahead_begin_ = ahead_end_ = 0;
  // Ends of payloads come with the next header in one read.
  bool into_payload = in_payload_ && ahead_end_ == 0 && payload_.missing() > kServerReadAheadBytes;
  if (!into_payload && ahead_begin_ > 0) {
    std::memmove(ahead_.get(), ahead_.get() + ahead_begin_, ahead_end_ - ahead_begin_);
    ahead_end_ -= std::exchange(ahead_begin_, 0);
  }
  std::span<std::byte> free =
      into_payload ? payload_.free()
                   : std::span(ahead_.get(), kServerReadAheadBytes).subspan(ahead_end_);
  reading_ = true;
  AsyncReadSome(socket_.get(), stream_.get(), free,
                [self = Self(), into_payload](const Result<std::size_t>& got) {
                  self->OnRead(into_payload, got);
                });
}

void Connection::OnRead(bool into_payload, const Result<std::size_t>& got) {
  reading_ = false;
  if (!open_) return;
  if (got.status().code() == StatusCode::kDataCorruption) return FailBadFrame(got.status());
  if (!got.ok()) {
    bool amid = in_payload_ || ahead_begin_ != ahead_end_;
    return Fail(amid ? ConnectionError(got.status().message() + " amid a frame") : got.status());
  }
  std::size_t bytes = *got;
  core_->bytes_received_total.fetch_add(bytes, std::memory_order_relaxed);
  bytes_received_ += bytes;
  if (into_payload) {
    PayloadArrived(bytes);
    if (payload_.missing() > 0) return ReadOn();
  } else {
    ahead_end_ += bytes;
  }
  Consume();
}

void Connection::CheckStalled() {
  if (!open_) return;
  std::uint64_t bytes_moved = bytes_received_ + outbox_.bytes_sent();
  bool waits_for_peer =
      outbox_.unsent_bytes() > 0 ||
      (!is_paused_ && (in_payload_ || amid_message_ || ahead_begin_ != ahead_end_));
  if (!waits_for_peer || bytes_moved != bytes_moved_at_check_) {
    bytes_moved_at_check_ = bytes_moved;
    checks_without_bytes_ = 0;
    return;
  }
  if (++checks_without_bytes_ < kStallChecks) return;
  core_->stalled_total.fetch_add(1, std::memory_order_relaxed);
  Fail(TimeoutError("the peer moved no byte for " +
                    std::to_string(core_->options.stall_timeout_ms) +
                    " ms amid a request or its reply"));
}

// --- writing

Outbox::Frame Connection::Seal(FrameHeader header, Buffer payload) {
  header.flags &= wire::kMore;
  header.raw_bytes = static_cast<std::uint32_t>(payload.size());
  std::vector<std::byte> compressed;
  std::span<const std::byte> part = payload.span();
  if (!over_unix_ && compressor_.TryCompress(core_->options.compression, {&part, 1}, &compressed)) {
    header.flags |= wire::CompressionFlag(core_->options.compression);
    payload = Buffer(compressed.size());
    std::memcpy(payload.data(), compressed.data(), compressed.size());
  }
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  header.payload_checksum = 0;
  if (!over_unix_) {
    header.flags |= wire::kChecksummed;
    header.payload_checksum = wire::PayloadChecksum(payload.span());
  }
  Outbox::Frame frame;
  wire::EncodeHeader(header, frame.header);
  frame.payload = std::move(payload);
  return frame;
}

void Connection::Send(FrameHeader header, Buffer payload, std::shared_ptr<void> until_sent) {
  if (!open_) return;
  if (payload.size() > limits::kFramePayloadBytesMax) {
    return SendError(header.request_id, Internal("a reply of " + std::to_string(payload.size()) +
                                                 " bytes is larger than a frame may be"));
  }
  bool is_last = (header.flags & wire::kMore) == 0;
  Outbox::Frame frame = Seal(header, std::move(payload));
  frame.until_sent = std::move(until_sent);
  outbox_.Add(std::move(frame));
  if (is_last) unanswered_.fetch_sub(1, std::memory_order_relaxed);
  bool may_wait = consuming_ && context_.get_executor().running_in_this_thread() &&
                  outbox_.unsent_bytes() < kGatheredBytesMax;
  if (!may_wait) Flush();
}

void Connection::SendError(std::uint64_t request_id, const Status& status) {
  std::vector<std::byte> bytes = wire::EncodeError(status);
  Buffer payload(bytes.size());
  std::memcpy(payload.data(), bytes.data(), bytes.size());
  FrameHeader header;
  header.type = MessageType::kError;
  header.request_id = request_id;
  Send(header, std::move(payload), nullptr);
}

template <typename Function>
void Connection::OnOwnThread(Function function) {
  if (context_.get_executor().running_in_this_thread()) return function();
  asio::post(context_, std::move(function));
}

// From any thread.
void Connection::Flush() {
  switch (outbox_.Flush()) {
    case Outbox::State::kDone:
      break;
    case Outbox::State::kSocketFull:
      OnOwnThread([self = Self()] { self->WaitUntilWritable(); });
      break;
    case Outbox::State::kFailed:
      OnOwnThread([self = Self()] { self->Fail(self->outbox_.error()); });
      return;
  }
  ResumeReading();
}

void Connection::WaitUntilWritable() {
  if (!open_) return;
  socket_->async_wait(asio::socket_base::wait_write,
                      [self = Self()](const asio::error_code& error) {
                        if (!self->open_) return;
                        if (error) return self->Fail(ConnectionError(error.message()));
                        self->outbox_.WritableAgain();
                        self->Flush();
                      });
}

}  // namespace ps::net
