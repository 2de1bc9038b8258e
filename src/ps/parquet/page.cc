#include "ps/parquet/page.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ps/parquet/compact.h"

namespace ps::parquet {
namespace {

// Numbers of Parquet's enumerations.
constexpr int kDataPageV2 = 3;

}  // namespace

Levels::Levels(const Column& column, std::size_t rows)
    : values_(rows * column.items), items_(column.items) {
  if (!column.is_list()) return;
  bits_bytes_ = (values_ + 7) / 8;
  CompactWriter(&repeats_head_).Varint(bits_bytes_ << 1 | 1);
  CompactWriter(&defined_).Varint(std::uint64_t{values_} << 1);
  defined_ += '\1';
}

void Levels::Put(char* out) const {
  if (bits_bytes_ == 0) return;
  char* bits = std::copy(repeats_head_.begin(), repeats_head_.end(), out);
  std::memset(bits, 0xFF, bits_bytes_);
  if (values_ % 8 != 0) bits[bits_bytes_ - 1] = static_cast<char>((1 << values_ % 8) - 1);
  for (std::size_t i = 0; i < values_; i += items_) {
    bits[i / 8] &= static_cast<char>(~(1 << i % 8));
  }
  std::copy(defined_.begin(), defined_.end(), bits + bits_bytes_);
}

std::string PageHeader(const Column& column, Codec codec, std::size_t rows, const Levels& levels,
                       std::size_t unpacked_bytes, std::size_t packed_bytes) {
  std::string bytes;
  CompactWriter header(&bytes);
  header.I32(1, kDataPageV2);
  header.I32(2, unpacked_bytes);
  header.I32(3, packed_bytes);
  CompactWriter page = header.Struct(8);
  page.I32(1, rows * column.items);
  page.I32(2, 0);  // nulls
  page.I32(3, rows);
  page.I32(4, kPlain);
  page.I32(5, levels.defined_bytes());
  page.I32(6, levels.repeats_bytes());
  page.Bool(7, codec != Codec::kNone);
  page.End();
  header.End();
  return bytes;
}

}  // namespace ps::parquet
