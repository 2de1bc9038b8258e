#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/base/status.h"
#include "ps/client/request.h"

namespace ps::client {

// Where the bytes of one part of a pull's reply go: asked for the next place, told how many bytes
// landed there. Rows that follow each other in the caller's array land in it directly, others by
// way of a small buffer; those in shared memory are copied from there. Every section head is held
// against the one that was asked.
class ReplySink {
 public:
  // Starts a part that answers `sections`; they outlive the part. `shared`: the connection's.
  void Start(std::span<const Section> sections, std::span<const std::byte> shared);
  bool is_complete() const { return section_ == sections_.size(); }
  // Requires !is_complete(). Not empty.
  std::span<std::byte> Next();
  // `bytes` <= Next().size(). DataCorruption when a head is not what was asked for.
  Status Advance(std::size_t bytes);

 private:
  enum class Step { kHead, kRows, kStrewnRows, kChunk, kPadding };

  Status OpenSection();
  void Begin(Step step, void* place, std::size_t bytes);
  void BeginStrewnRows();
  void TakeSharedRows();
  void ScatterRows(const float* rows, std::size_t count);
  void BeginPadding(std::size_t floats);

  std::span<const Section> sections_;
  std::span<const std::byte> shared_;
  std::size_t section_ = 0;
  Step step_ = Step::kHead;
  std::byte* place_ = nullptr;
  std::size_t left_ = 0;        // bytes of this step
  std::size_t row_ = 0;         // first row in the small buffer
  std::size_t block_rows_ = 0;  // rows in it
  std::byte head_[wire::kSectionHeadBytes];
  std::byte padding_[8];
  std::vector<float> strewn_;
};

}  // namespace ps::client
