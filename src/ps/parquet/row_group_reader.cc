#include "ps/parquet/row_group_reader.h"

#include <lz4.h>
#include <zstd.h>

#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>

namespace ps::parquet {
namespace {

struct FreeContext {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

// One for each thread that unpacks: a new one for each page costs 20 ns a row.
ZSTD_DCtx* Context() {
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
  if (context == nullptr) throw std::bad_alloc();
  return context.get();
}

// The packed values behind header and levels, which must be those that the writer makes; a null
// span otherwise.
std::span<const char> PackedValues(std::span<const char> page, const Column& column, Codec codec,
                                   std::size_t rows, std::string* head) {
  const Levels levels(column, rows);
  const std::size_t unpacked = levels.bytes() + rows * column.items * column.width;
  // The header tells the size of what is behind it, so its own size depends on itself.
  *head = PageHeader(column, codec, rows, levels, unpacked, page.size());
  for (int turn = 0; turn < 2; ++turn) {
    if (page.size() < head->size() + levels.bytes()) return {};
    *head = PageHeader(column, codec, rows, levels, unpacked, page.size() - head->size());
  }
  const std::size_t header_bytes = head->size();
  head->resize(header_bytes + levels.bytes());
  levels.Put(head->data() + header_bytes);
  if (page.size() <= head->size()) return {};
  if (std::memcmp(page.data(), head->data(), head->size()) != 0) return {};
  return page.subspan(head->size());
}

bool Unpack(std::span<const char> packed, Codec codec, char* out, std::size_t bytes) {
  if (codec == Codec::kZstd) {
    return ZSTD_decompressDCtx(Context(), out, bytes, packed.data(), packed.size()) == bytes;
  }
  if (codec == Codec::kLz4Raw) {
    const int made = LZ4_decompress_safe(packed.data(), out, static_cast<int>(packed.size()),
                                         static_cast<int>(bytes));
    return made >= 0 && static_cast<std::size_t>(made) == bytes;
  }
  if (packed.size() != bytes) return false;
  std::memcpy(out, packed.data(), bytes);
  return true;
}

}  // namespace

Result<bool> RowGroupReader::Read(std::span<const Chunk> chunks, Codec codec,
                                  std::size_t rows) const {
  if (rows > kPageBytesMax) return false;
  std::string head;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    const Column& column = columns_[i];
    const std::size_t bytes = rows * column.items * column.width;
    if (chunks[i].page.size() > kPageBytesMax || bytes > kPageBytesMax) return false;
    const auto packed = PackedValues(chunks[i].page, column, codec, rows, &head);
    if (packed.data() == nullptr) return false;
    if (chunks[i].out == nullptr || Unpack(packed, codec, chunks[i].out, bytes)) continue;
    return DataCorruption("column '" + column.path[0] + "' cannot be unpacked");
  }
  return true;
}

}  // namespace ps::parquet
