#include "ps/arrow/import.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace ps::arrow {
namespace {

bool AllValid(const std::uint8_t* bits, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = first; i < first + count; ++i) {
    if ((bits[i / 8] >> (i % 8) & 1) == 0) return false;
  }
  return true;
}

bool HasNulls(const ArrowArray& array, std::int64_t first, std::int64_t count) {
  if (array.null_count == 0 || array.n_buffers == 0 || array.buffers[0] == nullptr) return false;
  return !AllValid(static_cast<const std::uint8_t*>(array.buffers[0]), first, count);
}

// The number behind "w:" or "+w:".
std::int64_t WidthIn(std::string_view format) {
  format.remove_prefix(format.find(':') + 1);
  std::int64_t width = 0;
  std::from_chars(format.data(), format.data() + format.size(), width);
  return width;
}

std::int64_t BytesOf(std::string_view format) {
  if (format.starts_with("w:")) return WidthIn(format);
  if (format == "L" || format == "l" || format == "g") return 8;
  if (format == "I" || format == "i" || format == "f") return 4;
  return 1;
}

template <typename Offset>
std::pair<std::int64_t, std::int64_t> Bounds(const void* offsets, std::int64_t row) {
  const auto* at = static_cast<const Offset*>(offsets) + row;
  return {at[0], at[1]};
}

// Begin and end of row `row` in the values of a column of variable length.
std::pair<std::int64_t, std::int64_t> Extent(const Column& column, std::int64_t row) {
  const bool is_large = column.format == "U" || column.format == "+L";
  const void* offsets = column.array->buffers[1];
  return is_large ? Bounds<std::int64_t>(offsets, column.first + row)
                  : Bounds<std::int32_t>(offsets, column.first + row);
}

}  // namespace

Result<BatchReader> BatchReader::Open(std::string what, ArrowArrayStream* stream,
                                      std::vector<ColumnSpec> specs) {
  BatchReader reader;
  reader.what_ = std::move(what);
  reader.specs_ = std::move(specs);
  reader.stream_ = Owned<ArrowArrayStream>::Take(stream);
  if (reader.stream_->get_schema(reader.stream_.get(), reader.schema_.get()) != 0) {
    return reader.StreamError();
  }
  PS_RETURN_IF_ERROR(reader.FindColumns());
  return reader;
}

Status BatchReader::StreamError() const {
  const char* text = stream_->get_last_error(const_cast<ArrowArrayStream*>(&*stream_));
  return Status(StatusCode::kStorage,
                what_ + ": " + (text == nullptr ? "the stream ended with an error" : text));
}

Status BatchReader::Wrong(std::size_t spec, const std::string& how) const {
  return DataCorruption(what_ + ": column '" + specs_[spec].name + "' " + how);
}

Status BatchReader::FindColumns() {
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    const ColumnSpec& spec = specs_[i];
    std::int64_t at = 0;
    while (at < schema_->n_children && schema_->children[at]->name != spec.name) ++at;
    if (at == schema_->n_children) return Wrong(i, "is missing");
    const ArrowSchema& found = *schema_->children[at];
    if (std::find(spec.formats.begin(), spec.formats.end(), found.format) == spec.formats.end()) {
      return Wrong(i, std::string("has the type '") + found.format + "', needed is '" +
                          spec.formats.front() + "'");
    }
    if (!spec.item_format.empty() &&
        (found.n_children != 1 || found.children[0]->format != spec.item_format)) {
      return Wrong(i, "does not hold lists of '" + spec.item_format + "'");
    }
    places_.push_back(at);
  }
  columns_.resize(specs_.size());
  return Status::Ok();
}

Result<bool> BatchReader::Next() {
  Owned<ArrowArray> batch;
  if (stream_->get_next(stream_.get(), batch.get()) != 0) return StreamError();
  batch_ = std::move(batch);
  if (batch_.released()) return false;
  for (std::size_t i = 0; i < specs_.size(); ++i) PS_RETURN_IF_ERROR(ReadColumn(i));
  return true;
}

Status BatchReader::ReadColumn(std::size_t i) {
  const ArrowArray* array = batch_->children[places_[i]];
  Column& column = columns_[i];
  column = {schema_->children[places_[i]]->format, array, array->offset + batch_->offset};
  if (array->length < batch_->offset + batch_->length) return Wrong(i, "is shorter than its batch");
  if (HasNulls(*array, column.first, batch_->length)) return Wrong(i, "holds nulls");
  if (column.format.starts_with("+w:")) {
    const std::int64_t width = WidthIn(column.format);
    const ArrowArray& items = *array->children[0];
    const std::int64_t first = column.first * width;
    const std::int64_t count = batch_->length * width;
    if (items.length < first + count) return Wrong(i, "is shorter than its batch");
    if (HasNulls(items, items.offset + first, count)) return Wrong(i, "holds nulls in its lists");
  }
  return Status::Ok();
}

const char* BatchReader::FixedWidth(const Column& column) {
  if (!column.format.starts_with("+w:")) {
    return static_cast<const char*>(column.array->buffers[1]) +
           column.first * BytesOf(column.format);
  }
  const ArrowArray& items = *column.array->children[0];
  const std::int64_t first = items.offset + column.first * WidthIn(column.format);
  return static_cast<const char*>(items.buffers[1]) + first * 4;
}

std::string_view BatchReader::Text(std::size_t i, std::int64_t row) const {
  const auto [begin, end] = Extent(columns_[i], row);
  const char* bytes = static_cast<const char*>(columns_[i].array->buffers[2]);
  return {bytes + begin, static_cast<std::size_t>(end - begin)};
}

std::span<const float> BatchReader::Floats(std::size_t i, std::int64_t row) const {
  const auto [begin, end] = Extent(columns_[i], row);
  const ArrowArray& items = *columns_[i].array->children[0];
  const float* values = static_cast<const float*>(items.buffers[1]) + items.offset;
  return {values + begin, static_cast<std::size_t>(end - begin)};
}

}  // namespace ps::arrow
