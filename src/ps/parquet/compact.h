#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ps::parquet {

// Writes Thrift's compact protocol, in which Parquet has its page headers and footers. Fields of a
// struct come in rising order of their numbers, at most 15 apart.
class CompactWriter {
 public:
  enum Type : std::uint8_t {
    kTrue = 1,
    kFalse = 2,
    kI16 = 4,
    kI32 = 5,
    kI64 = 6,
    kBinary = 8,
    kList = 9,
    kStruct = 12,
  };

  explicit CompactWriter(std::string* out) : out_(*out) {}

  void Bool(int number, bool value) { Head(number, value ? kTrue : kFalse); }
  void I16(int number, std::int64_t value) { Integer(number, kI16, value); }
  void I32(int number, std::int64_t value) { Integer(number, kI32, value); }
  void I64(int number, std::int64_t value) { Integer(number, kI64, value); }
  void Binary(int number, std::string_view value) {
    Head(number, kBinary);
    Item(value);
  }
  // A list whose items the caller appends by Item, or as structs of a writer each.
  void List(int number, Type items, std::size_t count) {
    Head(number, kList);
    const bool is_short = count <= kShortListMax;
    out_ += static_cast<char>((is_short ? count : 0xF) << 4 | items);
    if (!is_short) Varint(count);
  }
  void Item(std::string_view value) {
    Varint(value.size());
    out_ += value;
  }
  void Item(std::int64_t value) { Varint(Zigzag(value)); }
  // The field's struct is written by the writer returned, down to its End.
  CompactWriter Struct(int number) {
    Head(number, kStruct);
    return CompactWriter(&out_);
  }
  void End() { out_ += '\0'; }

  void Varint(std::uint64_t value) {
    for (; value > 0x7F; value >>= 7) out_ += static_cast<char>(value | 0x80);
    out_ += static_cast<char>(value);
  }

 private:
  static constexpr std::size_t kShortListMax = 14;

  static std::uint64_t Zigzag(std::int64_t value) {
    return static_cast<std::uint64_t>(value) << 1 ^ static_cast<std::uint64_t>(value >> 63);
  }
  void Head(int number, Type type) {
    out_ += static_cast<char>((number - last_) << 4 | type);
    last_ = number;
  }
  void Integer(int number, Type type, std::int64_t value) {
    Head(number, type);
    Varint(Zigzag(value));
  }

  std::string& out_;
  int last_ = 0;
};

}  // namespace ps::parquet
