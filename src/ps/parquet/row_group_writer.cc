#include "ps/parquet/row_group_writer.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <string_view>
#include <utility>

#include "ps/parquet/compact.h"

namespace ps::parquet {
namespace {

// Numbers of Parquet's enumerations.
constexpr int kRle = 3;

constexpr std::size_t kHeaderBytesMax = 64;
constexpr std::size_t kVarintBytesMax = 10;

std::size_t LevelsBound(const Column& column, std::size_t rows) {
  return column.is_list() ? (rows * column.items + 7) / 8 + 2 * kVarintBytesMax + 1 : 0;
}

}  // namespace

struct RowGroupWriter::Zstd {
  Zstd() : context(ZSTD_createCCtx()) {
    if (context == nullptr) throw std::bad_alloc();
  }
  ~Zstd() { ZSTD_freeCCtx(context); }
  ZSTD_CCtx* const context;
};

struct RowGroupWriter::Chunk {
  std::size_t begin = 0;  // in the row group
  std::size_t header_bytes = 0;
  // With levels, without the header.
  std::size_t unpacked_bytes = 0;
  std::size_t packed_bytes = 0;

  std::size_t end() const { return begin + header_bytes + packed_bytes; }
};

RowGroupWriter::RowGroupWriter(std::vector<Column> columns, Codec codec)
    : columns_(std::move(columns)),
      codec_(codec),
      zstd_(codec == Codec::kZstd ? std::make_unique<Zstd>() : nullptr) {}

RowGroupWriter::~RowGroupWriter() = default;

Result<RowGroupWriter::RowGroup> RowGroupWriter::Write(std::span<const char* const> values,
                                                       std::size_t rows, std::int64_t position,
                                                       std::size_t ordinal) {
  for (const Column& column : columns_) {
    const std::size_t bytes = rows * column.items * column.width;
    if (bytes + LevelsBound(column, rows) <= kPageBytesMax / 2) continue;
    return InvalidArgument("column '" + column.path[0] + "' has " + std::to_string(bytes) +
                           " bytes in one row group, too many for a page; give fewer rows");
  }
  if (const std::size_t bound = Bound(rows); bound > memory_bytes_ || memory_.use_count() > 1) {
    memory_bytes_ = std::max(bound, memory_bytes_);
    memory_ = std::make_shared_for_overwrite<char[]>(memory_bytes_);
  }
  std::vector<Chunk> chunks(columns_.size());
  std::size_t at = 0;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    PS_RETURN_IF_ERROR(WritePage(columns_[i], values[i], rows, &at, &chunks[i]));
  }
  return RowGroup{memory_, at, Entry(chunks, values, rows, position, ordinal)};
}

std::size_t RowGroupWriter::Bound(std::size_t rows) const {
  std::size_t bound = 0;
  for (const Column& column : columns_) {
    const std::size_t bytes = rows * column.items * column.width;
    const std::size_t packed =
        std::max<std::size_t>(ZSTD_compressBound(bytes), LZ4_COMPRESSBOUND(bytes));
    bound += kHeaderBytesMax + LevelsBound(column, rows) + packed;
  }
  return bound;
}

// Bytes written to `out`, which has room for the worst.
Result<std::size_t> RowGroupWriter::Pack(const char* values, std::size_t bytes, char* out,
                                         std::size_t room) const {
  if (codec_ == Codec::kNone) {
    std::memcpy(out, values, bytes);
    return bytes;
  }
  if (codec_ == Codec::kLz4Raw) {
    const int written =
        LZ4_compress_default(values, out, static_cast<int>(bytes),
                             static_cast<int>(std::min(room, std::size_t{kPageBytesMax})));
    if (written > 0) return static_cast<std::size_t>(written);
    return Internal("lz4 did not pack a page of " + std::to_string(bytes) + " bytes");
  }
  const std::size_t written =
      ZSTD_compressCCtx(zstd_->context, out, room, values, bytes, kZstdLevel);
  if (ZSTD_isError(written) == 0) return written;
  return Internal(std::string("zstd did not pack a page: ") + ZSTD_getErrorName(written));
}

// Appends the column's page at *at. The header tells how far the values were packed, and its own
// length depends on that: they are packed behind where the longest header would end, then moved.
Status RowGroupWriter::WritePage(const Column& column, const char* values, std::size_t rows,
                                 std::size_t* at, Chunk* chunk) {
  const std::size_t value_bytes = rows * column.items * column.width;
  const Levels levels(column, rows);
  const auto header_of = [&] {
    return PageHeader(column, codec_, rows, levels, chunk->unpacked_bytes, chunk->packed_bytes);
  };
  chunk->begin = *at;
  chunk->unpacked_bytes = levels.bytes() + value_bytes;
  // Nearly always of the final length: its sizes are as long as these.
  chunk->packed_bytes = chunk->unpacked_bytes;
  const std::size_t guess = header_of().size();
  char* const begin = memory_.get() + *at;
  char* const packed = begin + guess + levels.bytes();
  PS_ASSIGN_OR_RETURN(const std::size_t packed_bytes,
                      Pack(values, value_bytes, packed, memory_.get() + memory_bytes_ - packed));
  chunk->packed_bytes = levels.bytes() + packed_bytes;
  const std::string header = header_of();
  chunk->header_bytes = header.size();
  if (header.size() != guess) {
    std::memmove(begin + header.size() + levels.bytes(), packed, packed_bytes);
  }
  header.copy(begin, header.size());
  levels.Put(begin + header.size());
  *at = chunk->end();
  return Status::Ok();
}

std::string RowGroupWriter::Entry(std::span<const Chunk> chunks,
                                  std::span<const char* const> values, std::size_t rows,
                                  std::int64_t position, std::size_t ordinal) const {
  std::string bytes;
  CompactWriter group(&bytes);
  group.List(1, CompactWriter::kStruct, columns_.size());
  std::size_t unpacked_bytes = 0;
  std::size_t sorted = columns_.size();
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    const Column& column = columns_[i];
    const Chunk& chunk = chunks[i];
    const std::int64_t begin = position + static_cast<std::int64_t>(chunk.begin);
    CompactWriter listed(&bytes);
    listed.I64(2, begin);
    CompactWriter about = listed.Struct(3);
    about.I32(1, column.physical);
    about.List(2, CompactWriter::kI32, column.is_list() ? 2 : 1);
    about.Item(kPlain);
    if (column.is_list()) about.Item(kRle);
    about.List(3, CompactWriter::kBinary, column.path.size());
    for (const std::string& name : column.path) about.Item(name);
    about.I32(4, static_cast<int>(codec_));
    about.I64(5, rows * column.items);
    about.I64(6, chunk.header_bytes + chunk.unpacked_bytes);
    about.I64(7, chunk.header_bytes + chunk.packed_bytes);
    about.I64(9, begin);
    if (column.is_sorted) {
      sorted = i;
      CompactWriter statistics = about.Struct(12);
      statistics.I64(3, 0);  // nulls
      statistics.Binary(5, {values[i] + (rows - 1) * column.width, column.width});
      statistics.Binary(6, {values[i], column.width});
      statistics.End();
    }
    about.End();
    listed.End();
    unpacked_bytes += chunk.header_bytes + chunk.unpacked_bytes;
  }
  group.I64(2, unpacked_bytes);
  group.I64(3, rows);
  if (sorted < columns_.size()) {
    group.List(4, CompactWriter::kStruct, 1);
    CompactWriter by(&bytes);
    by.I32(1, sorted);
    by.Bool(2, false);  // descending
    by.Bool(3, false);  // nulls first
    by.End();
  }
  group.I64(5, position);
  group.I64(6, chunks.empty() ? 0 : chunks.back().end());
  group.I16(7, std::min<std::size_t>(ordinal, std::numeric_limits<std::int16_t>::max()));
  group.End();
  return bytes;
}

}  // namespace ps::parquet
