#include "ps/client/reply_reader.h"

#include <algorithm>
#include <cstring>

#include "ps/wire/codec.h"

namespace ps::client {
namespace {

constexpr std::size_t kStagedBytes = 8'192;
// Places at least this large are read into directly.
constexpr std::size_t kDirectBytesMin = 4'096;
// An owned payload's memory grows with the bytes that have come.
constexpr std::size_t kGrowthBytes = 4u << 20;

wire::MessageType ReplyType(wire::MessageType request) {
  switch (request) {
    case wire::MessageType::kPull:
      return wire::MessageType::kPullReply;
    case wire::MessageType::kPush:
      return wire::MessageType::kPushReply;
    default:
      return wire::MessageType::kControlReply;
  }
}

}  // namespace

ReplyReader::ReplyReader(ServerRequest* request, std::uint64_t request_id,
                         net::ClientConnection* connection, std::size_t payload_bytes_max,
                         ReadBuffers* buffers)
    : request_(request),
      request_id_(request_id),
      connection_(connection),
      payload_bytes_max_(payload_bytes_max),
      buffers_(buffers) {
  buffers_->staged.resize(kStagedBytes);
  if (request->type == wire::MessageType::kPull) parts_left_ = request->frame_count();
  parts_seen_.resize(parts_left_);
}

Status ReplyReader::ReadSome() {
  bool would_block = false;
  while (!is_done_ && !would_block) {
    switch (state_) {
      case State::kHeader:
        PS_RETURN_IF_ERROR(ReadHeader(&would_block));
        break;
      case State::kPart:
        PS_RETURN_IF_ERROR(ReadPart(&would_block));
        break;
      case State::kPayload:
      case State::kStale:
        PS_RETURN_IF_ERROR(ReadPayload(&would_block));
        break;
    }
  }
  if (is_done_ && staged_begin_ != staged_end_) {
    return DataCorruption("bytes follow the end of a reply");
  }
  return Status::Ok();
}

// Adds what the socket has to the staged bytes.
Status ReplyReader::Stage(bool* would_block) {
  auto& staged = buffers_->staged;
  if (staged_begin_ > 0) {
    std::memmove(staged.data(), staged.data() + staged_begin_, staged_end_ - staged_begin_);
    staged_end_ -= staged_begin_;
    staged_begin_ = 0;
  }
  PS_ASSIGN_OR_RETURN(std::size_t bytes,
                      connection_->ReadSome(std::span(staged).subspan(staged_end_)));
  staged_end_ += bytes;
  *would_block = bytes == 0;
  return Status::Ok();
}

std::size_t ReplyReader::TakeStaged(std::span<std::byte> out) {
  std::size_t bytes = std::min(out.size(), staged_end_ - staged_begin_);
  std::memcpy(out.data(), buffers_->staged.data() + staged_begin_, bytes);
  staged_begin_ += bytes;
  return bytes;
}

Status ReplyReader::ReadHeader(bool* would_block) {
  while (staged_end_ - staged_begin_ < wire::kFrameHeaderBytes) {
    PS_RETURN_IF_ERROR(Stage(would_block));
    if (*would_block) return Status::Ok();
  }
  std::span<const std::byte, wire::kFrameHeaderBytes> bytes(buffers_->staged.data() + staged_begin_,
                                                            wire::kFrameHeaderBytes);
  PS_ASSIGN_OR_RETURN(header_, wire::DecodeHeader(bytes, payload_bytes_max_));
  staged_begin_ += wire::kFrameHeaderBytes;
  return BeginPayload();
}

Status ReplyReader::BeginPayload() {
  payload_left_ = header_.payload_bytes;
  buffers_->payload.clear();
  if ((header_.flags & wire::kChecksummed) != 0) buffers_->checksum.Reset();
  state_ = State::kPayload;
  if (header_.request_id != request_id_) {
    // What is left of a request that the server refused half-way.
    if (header_.request_id > request_id_) return DataCorruption("a reply to an unknown request");
    state_ = State::kStale;
  } else if (header_.type == wire::MessageType::kError) {
  } else if (header_.type != ReplyType(request_->type)) {
    return DataCorruption("a reply of type " + std::to_string(static_cast<int>(header_.type)) +
                          " to a request of type " +
                          std::to_string(static_cast<int>(request_->type)));
  } else if (header_.type == wire::MessageType::kPullReply) {
    if (header_.sequence >= parts_seen_.size() || parts_seen_[header_.sequence]) {
      return DataCorruption("reply part " + std::to_string(header_.sequence) +
                            " is unknown or came twice");
    }
    buffers_->sink.Start(request_->frame(header_.sequence), connection_->shared_memory());
    if ((header_.flags & (wire::kLz4 | wire::kZstd)) == 0) state_ = State::kPart;
  }
  if (payload_left_ == 0) return state_ == State::kPart ? EndPart() : EndPayload();
  return Status::Ok();
}

Status ReplyReader::ReadPart(bool* would_block) {
  ReplySink& sink = buffers_->sink;
  while (payload_left_ > 0) {
    if (sink.is_complete()) return DataCorruption("a reply part is longer than its sections");
    std::span<std::byte> place = sink.Next();
    place = place.subspan(0, std::min(place.size(), payload_left_));
    std::size_t bytes = 0;
    if (staged_begin_ < staged_end_) {
      bytes = TakeStaged(place);
    } else if (place.size() >= kDirectBytesMin) {
      PS_ASSIGN_OR_RETURN(bytes, connection_->ReadSome(place));
      *would_block = bytes == 0;
    } else {
      PS_RETURN_IF_ERROR(Stage(would_block));
      if (!*would_block) continue;
    }
    if (*would_block) return Status::Ok();
    if ((header_.flags & wire::kChecksummed) != 0) buffers_->checksum.Add(place.subspan(0, bytes));
    payload_left_ -= bytes;
    PS_RETURN_IF_ERROR(sink.Advance(bytes));
  }
  return EndPart();
}

Status ReplyReader::EndPart() {
  if ((header_.flags & wire::kChecksummed) != 0 &&
      buffers_->checksum.value() != header_.payload_checksum) {
    return DataCorruption("frame payload: checksum does not match");
  }
  return CountPart();
}

Status ReplyReader::CountPart() {
  if (!buffers_->sink.is_complete()) return DataCorruption("a reply part ends too early");
  parts_seen_[header_.sequence] = true;
  is_done_ = --parts_left_ == 0;
  state_ = State::kHeader;
  return Status::Ok();
}

Status ReplyReader::ReadPayload(bool* would_block) {
  auto& payload = buffers_->payload;
  while (payload_left_ > 0) {
    std::size_t filled = header_.payload_bytes - payload_left_;
    if (filled == payload.size()) payload.resize(filled + std::min(payload_left_, kGrowthBytes));
    std::span<std::byte> place = std::span(payload).subspan(filled);
    std::size_t bytes = TakeStaged(place);
    if (bytes == 0) {
      PS_ASSIGN_OR_RETURN(bytes, connection_->ReadSome(place));
    }
    payload_left_ -= bytes;
    if (bytes == 0) {
      *would_block = true;
      return Status::Ok();
    }
  }
  return EndPayload();
}

Status ReplyReader::EndPayload() {
  PS_RETURN_IF_ERROR(wire::CheckPayload(header_, buffers_->payload));
  std::span<const std::byte> raw = buffers_->payload;
  if (state_ == State::kStale) {
    state_ = State::kHeader;
    return Status::Ok();
  }
  if ((header_.flags & (wire::kLz4 | wire::kZstd)) != 0) {
    buffers_->raw.resize(header_.raw_bytes);
    PS_RETURN_IF_ERROR(wire::Decompress(header_, raw, buffers_->raw));
    raw = buffers_->raw;
  }
  switch (header_.type) {
    case wire::MessageType::kError:
      request_->refusal = wire::DecodeError(raw);
      is_done_ = true;
      return Status::Ok();
    case wire::MessageType::kPullReply:
      return FillFromRaw(raw);
    case wire::MessageType::kControlReply:
      request_->control_reply.append(reinterpret_cast<const char*>(raw.data()), raw.size());
      break;
    default:
      break;
  }
  is_done_ = (header_.flags & wire::kMore) == 0;
  state_ = State::kHeader;
  return Status::Ok();
}

Status ReplyReader::FillFromRaw(std::span<const std::byte> raw) {
  ReplySink& sink = buffers_->sink;
  while (!raw.empty()) {
    if (sink.is_complete()) return DataCorruption("a reply part is longer than its sections");
    std::span<std::byte> place = sink.Next();
    std::size_t bytes = std::min(place.size(), raw.size());
    std::memcpy(place.data(), raw.data(), bytes);
    raw = raw.subspan(bytes);
    PS_RETURN_IF_ERROR(sink.Advance(bytes));
  }
  return CountPart();
}

}  // namespace ps::client
