#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ps/arrow/c_data.h"
#include "ps/base/status.h"

namespace ps::arrow {

// Owns one structure of the C data interface; released with it. Movable.
template <typename Struct>
class Owned {
 public:
  Owned() : held_{} {}
  ~Owned() { Reset(); }
  Owned(Owned&& other) noexcept : held_(std::exchange(other.held_, Struct{})) {}
  Owned& operator=(Owned&& other) noexcept {
    if (this != &other) {
      Reset();
      held_ = std::exchange(other.held_, Struct{});
    }
    return *this;
  }
  // Takes over *from, which is released to its former owner's eyes.
  static Owned Take(Struct* from) {
    Owned owned;
    owned.held_ = std::exchange(*from, Struct{});
    return owned;
  }

  Struct* get() { return &held_; }
  const Struct& operator*() const { return held_; }
  const Struct* operator->() const { return &held_; }
  bool released() const { return held_.release == nullptr; }

 private:
  void Reset() {
    if (held_.release != nullptr) held_.release(&held_);
    held_ = {};
  }
  Struct held_;
};

// A column that a stream must have: its name and the type, as the C data interface writes it.
struct ColumnSpec {
  std::string name;
  std::vector<std::string> formats;  // any of these
  std::string item_format;           // of what a list holds; empty: no list
};

// One column of one batch, without nulls. Points into the batch.
struct Column {
  std::string_view format;
  const ArrowArray* array = nullptr;
  std::int64_t first = 0;  // of the batch's rows, in the array
};

// Reads the batches of a stream whose columns are picked by name; others are not looked at. A
// column that is missing, of another type or with nulls in it is DataCorruption naming `what`, the
// column and what was found. An error of the stream itself is Storage. One thread at a time.
class BatchReader {
 public:
  // Takes over the stream.
  static Result<BatchReader> Open(std::string what, ArrowArrayStream* stream,
                                  std::vector<ColumnSpec> specs);

  // False at the end.
  Result<bool> Next();

  // --- of the current batch
  std::int64_t rows() const { return batch_->length; }
  const Column& column(std::size_t i) const { return columns_[i]; }

  // Values of a column of fixed width (numbers, "w:...", "+w:..."), one after the other.
  template <typename T>
  const T* Values(std::size_t i) const {
    return reinterpret_cast<const T*>(FixedWidth(columns_[i]));
  }
  // Row `row` of a column of strings, or of lists of float32.
  std::string_view Text(std::size_t i, std::int64_t row) const;
  std::span<const float> Floats(std::size_t i, std::int64_t row) const;

 private:
  BatchReader() = default;
  static const char* FixedWidth(const Column& column);
  Status StreamError() const;
  Status Wrong(std::size_t spec, const std::string& how) const;
  Status FindColumns();
  Status ReadColumn(std::size_t i);

  std::string what_;
  std::vector<ColumnSpec> specs_;
  Owned<ArrowArrayStream> stream_;
  Owned<ArrowSchema> schema_;
  Owned<ArrowArray> batch_;
  std::vector<std::int64_t> places_;  // of the columns in the schema
  std::vector<Column> columns_;
};

}  // namespace ps::arrow
