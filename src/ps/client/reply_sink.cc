#include "ps/client/reply_sink.h"

#include <algorithm>
#include <cstring>

#include "ps/client/copy_run.h"

namespace ps::client {
namespace {

// Small enough to stay in the first cache levels between the socket's copy and ours.
constexpr std::size_t kStrewnBytes = 65'536;

Status Mismatch(const wire::SectionHead& asked, const wire::SectionHead& got) {
  return DataCorruption(
      "a reply's section (kind " + std::to_string(static_cast<int>(got.kind)) + ", id " +
      std::to_string(got.id) + ", count " + std::to_string(got.count) + ", dim " +
      std::to_string(got.dim) + ") does not answer what was asked (id " + std::to_string(asked.id) +
      ", count " + std::to_string(asked.count) + ", dim " + std::to_string(asked.dim) + ")");
}

}  // namespace

void ReplySink::Start(std::span<const Section> sections, std::span<const std::byte> shared) {
  sections_ = sections;
  shared_ = shared;
  section_ = 0;
  Begin(Step::kHead, head_, sizeof(head_));
}

void ReplySink::Begin(Step step, void* place, std::size_t bytes) {
  step_ = step;
  place_ = static_cast<std::byte*>(place);
  left_ = bytes;
}

std::span<std::byte> ReplySink::Next() { return {place_, left_}; }

Status ReplySink::Advance(std::size_t bytes) {
  place_ += bytes;
  left_ -= bytes;
  if (left_ > 0) return Status::Ok();
  const Section& section = sections_[section_];
  switch (step_) {
    case Step::kHead:
      return OpenSection();
    case Step::kStrewnRows:
      ScatterRows(strewn_.data(), block_rows_);
      if (row_ < section.head.count) {
        BeginStrewnRows();
        return Status::Ok();
      }
      [[fallthrough]];
    case Step::kRows:
      BeginPadding(std::size_t{section.head.count} * section.head.dim);
      return Status::Ok();
    case Step::kChunk:
      BeginPadding(section.head.count);
      return Status::Ok();
    case Step::kPadding:
      ++section_;
      Begin(Step::kHead, head_, sizeof(head_));
      return Status::Ok();
  }
  return Internal("reply sink without a step");
}

Status ReplySink::OpenSection() {
  const Section& section = sections_[section_];
  const wire::SectionHead& asked = section.head;
  const wire::SectionHead got = wire::DecodeSectionHead(head_);
  if (got.kind != asked.kind || got.id != asked.id) return Mismatch(asked, got);

  if (asked.kind == wire::SectionKind::kRows) {
    if (got.count != asked.count || got.dim != asked.dim || got.version != asked.version ||
        ((got.flags ^ asked.flags) & wire::kSharedRows) != 0) {
      return Mismatch(asked, got);
    }
    if ((got.flags & wire::kSharedRows) != 0) {
      TakeSharedRows();
      return Status::Ok();
    }
    std::size_t last = section.first + asked.count - 1;
    if (section.batch->is_run(section.first, last)) {
      Begin(Step::kRows, section.out + section.batch->source(section.first) * asked.dim,
            std::size_t{asked.count} * asked.dim * sizeof(float));
    } else {
      row_ = 0;
      BeginStrewnRows();
    }
    return Status::Ok();
  }

  bool is_changed = got.count > 0;
  const bool is_absent = got.version == 0 && (asked.flags & wire::kIfPresent) != 0;
  if (got.chunk != asked.chunk || (is_changed && got.count != asked.count) ||
      (!is_changed && asked.count > 0 && got.version != asked.version && !is_absent)) {
    return Mismatch(asked, got);
  }
  *section.version = got.version;
  *section.is_changed = is_changed;
  if (is_changed) {
    Begin(Step::kChunk, section.out, asked.count * sizeof(float));
  } else {
    BeginPadding(0);
  }
  return Status::Ok();
}

void ReplySink::BeginStrewnRows() {
  const wire::SectionHead& head = sections_[section_].head;
  std::size_t block_rows_max = std::max<std::size_t>(kStrewnBytes / (head.dim * sizeof(float)), 1);
  block_rows_ = std::min<std::size_t>(head.count - row_, block_rows_max);
  std::size_t floats = block_rows_ * head.dim;
  if (strewn_.size() < floats) strewn_.resize(floats);
  Begin(Step::kStrewnRows, strewn_.data(), floats * sizeof(float));
}

// The next `count` rows of the section.
void ReplySink::ScatterRows(const float* rows, std::size_t count) {
  const Section& section = sections_[section_];
  const std::size_t dim = section.head.dim;
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(section.out + section.batch->source(section.first + row_ + i) * dim, rows + i * dim,
                dim * sizeof(float));
  }
  row_ += count;
}

void ReplySink::TakeSharedRows() {
  const Section& section = sections_[section_];
  const wire::SectionHead& head = section.head;
  const auto* rows = reinterpret_cast<const float*>(shared_.data() + head.version);
  if (section.batch->is_run(section.first, section.first + head.count - 1)) {
    CopyRun(section.out + section.batch->source(section.first) * head.dim, rows,
            std::size_t{head.count} * head.dim * sizeof(float));
  } else {
    row_ = 0;
    ScatterRows(rows, head.count);
  }
  BeginPadding(0);
}

// Bodies are padded to 8 bytes. Without padding the section is over.
void ReplySink::BeginPadding(std::size_t floats) {
  if (floats % 2 != 0) {
    Begin(Step::kPadding, padding_, sizeof(float));
    return;
  }
  ++section_;
  Begin(Step::kHead, head_, sizeof(head_));
}

}  // namespace ps::client
