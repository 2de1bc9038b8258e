#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace ps::parquet {

inline constexpr std::size_t kPageBytesMax = std::numeric_limits<std::int32_t>::max();

// Parquet's enumeration Encoding.
inline constexpr int kPlain = 0;

// Numbers of Parquet's enumeration CompressionCodec.
enum class Codec : int { kNone = 0, kZstd = 6, kLz4Raw = 7 };

// How a column of fixed width lies in a file.
struct Column {
  std::vector<std::string> path;  // in the schema's tree; {name, "list", "element"} of a list
  int physical = 0;               // Parquet's enumeration Type
  std::size_t width = 0;          // bytes of a value
  std::size_t items = 1;          // values of a row
  bool is_sorted = false;         // ascending, so that it gets statistics

  bool is_list() const { return path.size() > 1; }
};

// Levels of lists of one length: the first value of a row begins a list (repetition 0), the others
// go on with it (1), as bits packed in eights; and all are there (definition 1), one run. A column
// that is no list has none.
class Levels {
 public:
  Levels(const Column& column, std::size_t rows);

  std::size_t repeats_bytes() const { return repeats_head_.size() + bits_bytes_; }
  std::size_t defined_bytes() const { return defined_.size(); }
  std::size_t bytes() const { return repeats_bytes() + defined_bytes(); }
  // Writes bytes() of them.
  void Put(char* out) const;

 private:
  const std::size_t values_;
  const std::size_t items_;
  std::size_t bits_bytes_ = 0;
  std::string repeats_head_;
  std::string defined_;
};

// The header of a page of version 2 whose values are plain. Sizes are with levels, without header.
std::string PageHeader(const Column& column, Codec codec, std::size_t rows, const Levels& levels,
                       std::size_t unpacked_bytes, std::size_t packed_bytes);

}  // namespace ps::parquet
