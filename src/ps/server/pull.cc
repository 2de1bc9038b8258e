#include "ps/server/pull.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>

#include "ps/base/limits.h"

namespace ps::server {
namespace {

using wire::MessageType;
using wire::SectionHead;
using wire::SectionKind;

class Pull final : public DataRequest {
 public:
  using DataRequest::DataRequest;

  // Takes the right to the memory of all reply parts. Each part's own memory is taken when the
  // first shard comes to it and given back when it is sent, so that few are there at a time, in the
  // cache.
  Status TakeReplies() {
    std::size_t bytes = 0;
    for (FramePlan& frame : plan().frames) bytes += ReplyBytes(frame);
    parts_left_.store(plan().frames.size(), std::memory_order_relaxed);
    return TakeBytes(request(), bytes);
  }

 private:
  SectionHead ReplyHead(const SectionPlan& section) const {
    SectionHead head = section.view.head;
    head.flags &= wire::kSharedRows;
    if (head.kind != SectionKind::kRows) {
      head.count =
          section.unchanged ? 0 : definition().cluster.tensors[head.id].chunk_floats(head.chunk);
    }
    return head;
  }

  std::size_t ReplyBytes(const FramePlan& frame) const {
    if (frame.sections.empty()) return 0;
    const SectionPlan& last = frame.sections.back();
    return last.reply_offset + wire::kSectionHeadBytes +
           wire::SectionBodyBytes(MessageType::kPullReply, ReplyHead(last));
  }

  void BeginReply(FramePlan& frame) {
    std::lock_guard lock(begin_mutex_);
    if (frame.reply.size() > 0) return;
    frame.reply = net::Buffer(ReplyBytes(frame));
    for (const SectionPlan& section : frame.sections) WriteHead(frame, section);
  }

  // The head, and zeros where the body is padded.
  void WriteHead(FramePlan& frame, const SectionPlan& section) {
    SectionHead head = ReplyHead(section);
    std::byte* out = frame.reply.data() + section.reply_offset;
    wire::EncodeSectionHead(head, out);
    std::size_t body_bytes = wire::SectionBodyBytes(MessageType::kPullReply, head);
    if (body_bytes == 0) return;
    std::memset(out + wire::kSectionHeadBytes + body_bytes - sizeof(float), 0, sizeof(float));
  }

  void RunSection(Shard& shard, FramePlan& frame, SectionPlan& section,
                  std::size_t* reserved) override {
    const SectionHead& head = section.view.head;
    BeginReply(frame);
    std::byte* out = frame.reply.data() + section.reply_offset;
    auto* values = reinterpret_cast<float*>(out + wire::kSectionHeadBytes);
    if (head.kind == SectionKind::kRows) {
      SectionPlan::Part part = section.PartOf(shard.index());
      bool create = (head.flags & wire::kCreateMissing) != 0;
      const bool shared = section.shared_rows != nullptr;
      using Stores = store::EmbeddingStore::Stores;
      shard.table(head.id).Gather(part.keys, part.positions, create, reserved,
                                  shared ? section.shared_rows : values,
                                  shared ? Stores::kStreamed : Stores::kCached);
      return;
    }
    const store::ChunkId id{head.id, head.chunk};
    // Without values (kIfPresent): version 0.
    const bool is_there = shard.weights().Has(id);
    const store::WeightStore::View chunk =
        is_there ? shard.weights().Get(id) : store::WeightStore::View{};
    section.unchanged = !is_there || chunk.version == head.version;
    SectionHead reply_head = ReplyHead(section);
    reply_head.version = chunk.version;
    wire::EncodeSectionHead(reply_head, out);
    if (section.unchanged || chunk.values.empty()) return;
    std::memcpy(values, chunk.values.data(), chunk.values.size_bytes());
  }

  void OnFrameDone(std::size_t number) override {
    FramePlan& frame = plan().frames[number];
    BeginReply(frame);  // no shard has come to one without keys
    bool shorter = std::any_of(frame.sections.begin(), frame.sections.end(),
                               [](const SectionPlan& section) { return section.unchanged; });
    net::Buffer reply = shorter ? Compacted(frame) : std::move(frame.reply);
    // Counted before the client can know that it is answered.
    if (parts_left_.fetch_sub(1, std::memory_order_acq_rel) == 1) request().Answered();
    request().SendPart(number, std::move(reply));
  }

  // The reply without the room kept for chunks that the client has already.
  net::Buffer Compacted(FramePlan& frame) {
    std::size_t bytes = 0;
    for (const SectionPlan& section : frame.sections) bytes += SectionBytes(section);
    net::Buffer compact(bytes);
    std::byte* out = compact.data();
    for (const SectionPlan& section : frame.sections) {
      std::memcpy(out, frame.reply.data() + section.reply_offset, SectionBytes(section));
      out += SectionBytes(section);
    }
    return compact;
  }

  std::size_t SectionBytes(const SectionPlan& section) const {
    return wire::kSectionHeadBytes +
           wire::SectionBodyBytes(MessageType::kPullReply, ReplyHead(section));
  }

  void OnDone() override {}
  void OnRefused(const Status& status) override { request().Fail(status, /*refused=*/true); }

  std::mutex begin_mutex_;
  std::atomic<std::size_t> parts_left_{0};
};

}  // namespace

bool ServePull(const RequestPtr& request, DefinitionPtr definition, DataRequest::Release release) {
  Result<std::unique_ptr<RequestPlan>> plan = PlanOf(*request, definition);
  if (!plan.ok()) {
    request->Fail(plan.status());
    return true;
  }
  auto pull = std::make_shared<Pull>(request, std::move(definition), std::move(plan).value());
  if (Status status = pull->TakeReplies(); !status.ok()) {
    request->Fail(status, /*refused=*/true);
    return true;
  }
  return pull->Start(std::move(release));
}

}  // namespace ps::server
