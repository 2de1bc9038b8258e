#include "ps/testing/raw_client.h"

#include <cstring>
#include <utility>

namespace ps::testing {
namespace {

using wire::MessageType;
using wire::SectionKind;

SteadyTime Deadline() { return std::chrono::steady_clock::now() + std::chrono::seconds(30); }

}  // namespace

void Sections::Add(const wire::SectionHead& head, const std::vector<Key>& keys,
                   const std::vector<float>& floats) {
  std::size_t at = bytes_.size();
  std::size_t body = keys.size() * sizeof(Key) + floats.size() * sizeof(float);
  bytes_.resize(at + wire::kSectionHeadBytes + (body + 7) / 8 * 8);
  wire::EncodeSectionHead(head, bytes_.data() + at);
  std::byte* out = bytes_.data() + at + wire::kSectionHeadBytes;
  if (!keys.empty()) std::memcpy(out, keys.data(), keys.size() * sizeof(Key));
  out += keys.size() * sizeof(Key);
  if (!floats.empty()) std::memcpy(out, floats.data(), floats.size() * sizeof(float));
}

Sections& Sections::PullRows(TableId table, std::uint32_t dim, const std::vector<Key>& keys,
                             bool create) {
  wire::SectionHead head;
  head.flags = create ? wire::kCreateMissing : 0;
  head.id = table;
  head.dim = dim;
  head.count = static_cast<std::uint32_t>(keys.size());
  Add(head, keys, {});
  return *this;
}

Sections& Sections::PushRows(TableId table, std::uint32_t dim, const std::vector<Key>& keys,
                             const std::vector<float>& grads, float rate_scale) {
  wire::SectionHead head;
  head.id = table;
  head.dim = dim;
  head.count = static_cast<std::uint32_t>(keys.size());
  head.rate_scale = rate_scale;
  Add(head, keys, grads);
  return *this;
}

Sections& Sections::PullChunk(TensorId tensor, std::uint32_t chunk, std::uint64_t version) {
  wire::SectionHead head;
  head.kind = SectionKind::kChunk;
  head.id = tensor;
  head.chunk = chunk;
  head.version = version;
  Add(head, {}, {});
  return *this;
}

Sections& Sections::PushChunk(TensorId tensor, std::uint32_t chunk,
                              const std::vector<float>& grads) {
  wire::SectionHead head;
  head.kind = SectionKind::kChunk;
  head.id = tensor;
  head.chunk = chunk;
  head.count = static_cast<std::uint32_t>(grads.size());
  Add(head, {}, grads);
  return *this;
}

Sections& Sections::AssignChunk(TensorId tensor, std::uint32_t chunk,
                                const std::vector<float>& values, bool only_if_absent) {
  wire::SectionHead head;
  head.kind = SectionKind::kChunkAssign;
  head.flags = only_if_absent ? wire::kOnlyIfAbsent : 0;
  head.id = tensor;
  head.chunk = chunk;
  head.count = static_cast<std::uint32_t>(values.size());
  Add(head, {}, values);
  return *this;
}

Result<std::unique_ptr<RawClient>> RawClient::Connect(const net::Endpoint& endpoint,
                                                      const std::string& secret,
                                                      net::Transport transport,
                                                      std::uint32_t server_id) {
  net::ConnectOptions options;
  options.endpoint = endpoint;
  options.secret = secret;
  options.transport = transport;
  options.expected.server_id = server_id;
  auto client = std::make_unique<RawClient>();
  PS_ASSIGN_OR_RETURN(client->connection_, net::ClientConnection::Connect(options, Deadline()));
  return client;
}

Result<std::uint64_t> RawClient::Send(MessageType type, const std::vector<Sections>& frames,
                                      std::uint64_t stream, std::uint64_t sequence) {
  wire::FrameHeader header;
  header.type = type;
  header.request_id = connection_->NextRequestId();
  header.stream = stream;
  header.sequence = sequence;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    header.flags = i + 1 < frames.size() ? wire::kMore : 0;
    std::span<const std::byte> payload(frames[i].bytes());
    PS_RETURN_IF_ERROR(connection_->SendFrame(header, {&payload, 1}, Deadline()));
  }
  return header.request_id;
}

Result<std::vector<PulledSection>> RawClient::ReadPull(std::uint64_t request_id,
                                                       std::size_t parts) {
  std::vector<std::vector<PulledSection>> by_part(parts);
  for (std::size_t i = 0; i < parts; ++i) {
    PS_ASSIGN_OR_RETURN(auto frame, connection_->ReadFrame(Deadline()));
    if (frame.header.request_id != request_id) return Internal("a reply to another request");
    if (frame.header.type == MessageType::kError) return wire::DecodeError(frame.payload);
    if (frame.header.type != MessageType::kPullReply) return Internal("not a pull's reply");
    if (frame.header.sequence >= parts) return Internal("a part number beyond the request's");
    PS_ASSIGN_OR_RETURN(auto views, wire::DecodeSections(MessageType::kPullReply, frame.payload));
    for (const wire::SectionView& view : views) {
      by_part[frame.header.sequence].push_back(
          {view.head, {view.floats.begin(), view.floats.end()}});
    }
  }
  std::vector<PulledSection> all;
  for (auto& part : by_part) {
    for (auto& section : part) all.push_back(std::move(section));
  }
  return all;
}

Status RawClient::ReadPush(std::uint64_t request_id) {
  PS_ASSIGN_OR_RETURN(auto frame, connection_->ReadFrame(Deadline()));
  if (frame.header.request_id != request_id) return Internal("a reply to another request");
  if (frame.header.type == MessageType::kError) return wire::DecodeError(frame.payload);
  if (frame.header.type != MessageType::kPushReply) return Internal("not a push's reply");
  return Status::Ok();
}

Result<std::vector<PulledSection>> RawClient::Pull(const std::vector<Sections>& frames) {
  PS_ASSIGN_OR_RETURN(std::uint64_t id, Send(MessageType::kPull, frames));
  return ReadPull(id, frames.size());
}

Result<std::vector<float>> RawClient::PullRows(TableId table, std::uint32_t dim,
                                               const std::vector<Key>& keys, bool create) {
  PS_ASSIGN_OR_RETURN(auto sections, Pull({Sections().PullRows(table, dim, keys, create)}));
  if (sections.size() != 1) return Internal("expected one section");
  return std::move(sections[0].values);
}

Status RawClient::Push(std::uint64_t stream, std::uint64_t sequence,
                       const std::vector<Sections>& frames) {
  PS_ASSIGN_OR_RETURN(std::uint64_t id, Send(MessageType::kPush, frames, stream, sequence));
  return ReadPush(id);
}

Result<std::string> RawClient::Control(const std::string& json) {
  return connection_->Control(json, Deadline());
}

Result<std::string> RawClient::ControlOnce(std::uint64_t stream, std::uint64_t sequence,
                                           const std::string& json) {
  wire::FrameHeader header;
  header.type = MessageType::kControl;
  header.request_id = connection_->NextRequestId();
  header.stream = stream;
  header.sequence = sequence;
  auto payload = std::as_bytes(std::span(json.data(), json.size()));
  PS_RETURN_IF_ERROR(connection_->SendFrame(header, {&payload, 1}, Deadline()));
  PS_ASSIGN_OR_RETURN(auto frame, connection_->ReadFrame(Deadline()));
  if (frame.header.type == MessageType::kError) return wire::DecodeError(frame.payload);
  return std::string(reinterpret_cast<const char*>(frame.payload.data()), frame.payload.size());
}

}  // namespace ps::testing
