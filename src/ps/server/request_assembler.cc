#include "ps/server/request_assembler.h"

#include "ps/base/limits.h"

namespace ps::server {
namespace {

// What a frame costs beside its payload; so that empty frames do not add up for nothing.
constexpr std::size_t kFrameOverheadBytes = 256;

}  // namespace

Result<RequestPtr> RequestAssembler::Add(const net::ConnectionPtr& connection, net::Frame frame) {
  const wire::FrameHeader header = frame.header;
  PS_RETURN_IF_ERROR(CheckFrame(header));
  if (request_ == nullptr) {
    request_ = std::make_shared<Request>(core_, connection, header);
    refusal_ = Status::Ok();
  }
  Take(std::move(frame));
  if ((header.flags & wire::kMore) != 0) return RequestPtr();

  RequestPtr whole = std::move(request_);
  request_ = nullptr;
  whole->arrived = core_->clock->Now();
  if (refusal_.ok()) return whole;
  whole->Fail(refusal_, /*refused=*/true);
  return RequestPtr();
}

Status RequestAssembler::CheckFrame(const wire::FrameHeader& header) const {
  bool is_request =
      header.type == wire::MessageType::kPull || header.type == wire::MessageType::kPush ||
      header.type == wire::MessageType::kReplicate || header.type == wire::MessageType::kControl;
  if (!is_request) {
    return DataCorruption("a frame of type " + std::to_string(static_cast<int>(header.type)) +
                          " is not a request");
  }
  bool belongs =
      request_ == nullptr || (header.type == request_->type && header.request_id == request_->id &&
                              header.stream == request_->stream);
  if (!belongs) {
    return DataCorruption("a frame of request " + std::to_string(header.request_id) +
                          " among those of request " + std::to_string(request_->id));
  }
  return Status::Ok();
}

void RequestAssembler::Take(net::Frame frame) {
  if (!refusal_.ok()) return;
  std::size_t bytes = frame.payload.size() + kFrameOverheadBytes;
  refusal_ = Refusal(bytes);
  if (refusal_.ok()) {
    request_->frames.push_back(std::move(frame));
    PlanOn();
    return;
  }
  request_->plan_ahead.reset();
  request_->frames.clear();
  request_->ticket.Release();
}

// The last frame is left to whoever serves the request.
void RequestAssembler::PlanOn() {
  const net::Frame& frame = request_->frames.back();
  const bool is_data =
      request_->type == wire::MessageType::kPull || request_->type == wire::MessageType::kPush;
  if (!is_data || (frame.header.flags & wire::kMore) == 0) return;
  if (request_->plan_ahead == nullptr) {
    request_->plan_ahead = std::make_unique<PlanAhead>(core_, request_->connection, request_->type);
  }
  request_->plan_ahead->Add(frame);
}

// Ok when the bytes are taken.
Status RequestAssembler::Refusal(std::size_t bytes) const {
  std::size_t all = request_->ticket.bytes() + bytes;
  if (request_->type == wire::MessageType::kControl && all > limits::kControlPayloadBytesMax) {
    return ResourceExhausted(core_->Name() + ": a control request of more than " +
                             std::to_string(limits::kControlPayloadBytesMax) + " bytes");
  }
  // Copies take no part in the bounds: two servers full of pushes that wait for each other's copies
  // would wait for ever. The sender's batches bound them (replicator.cc).
  if (request_->type == wire::MessageType::kReplicate) return Status::Ok();
  return TakeBytes(*request_, bytes);
}

}  // namespace ps::server
