#include "bindings/parquet.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/status.h"
#include "ps/parquet/row_group_reader.h"
#include "ps/parquet/row_group_writer.h"

namespace nb = nanobind;

namespace ps::bindings {
namespace {

using parquet::Codec;
using parquet::Column;
using parquet::RowGroupReader;
using parquet::RowGroupWriter;
using BytesIn = Array<const std::uint8_t, 1>;
using BytesInto = Array<std::uint8_t, 1>;
using BytesOut = NumpyArray<const std::uint8_t>;

// path, physical type, width, items, is sorted
using ColumnTuple = std::tuple<std::vector<std::string>, int, std::size_t, std::size_t, bool>;

std::vector<Column> Columns(const std::vector<ColumnTuple>& tuples) {
  std::vector<Column> columns;
  for (const auto& [path, physical, width, items, is_sorted] : tuples) {
    if (path.empty() || width == 0 || items == 0) {
      Throw(InvalidArgument("a column needs a path, a width and items of at least 1"));
    }
    columns.push_back({path, physical, width, items, is_sorted});
  }
  return columns;
}

Codec CodecOf(int number) {
  for (const Codec codec : {Codec::kNone, Codec::kZstd, Codec::kLz4Raw}) {
    if (static_cast<int>(codec) == number) return codec;
  }
  Throw(InvalidArgument("codec " + std::to_string(number) +
                        " of Parquet is not one that pages are packed with"));
}

class PyRowGroupWriter {
 public:
  PyRowGroupWriter(const std::vector<ColumnTuple>& columns, int codec)
      : writer_(Columns(columns), CodecOf(codec)) {}

  std::tuple<BytesOut, nb::bytes> Write(const nb::sequence& values, std::size_t rows,
                                        std::int64_t position, std::size_t ordinal) {
    const std::vector<const char*> starts = Starts(values, rows);
    RowGroupWriter::RowGroup group = Check([&] {
      GilRelease release;
      std::lock_guard lock(mutex_);
      return writer_.Write(starts, rows, position, ordinal);
    }());
    using Memory = std::shared_ptr<const char[]>;
    auto* memory = new Memory(std::move(group.bytes));
    nb::capsule owner(memory, [](void* held) noexcept { delete static_cast<Memory*>(held); });
    BytesOut bytes(reinterpret_cast<const std::uint8_t*>(memory->get()), {group.size}, owner);
    return {std::move(bytes), nb::bytes(group.entry.data(), group.entry.size())};
  }

 private:
  std::vector<const char*> Starts(const nb::sequence& values, std::size_t rows) const {
    const std::vector<Column>& columns = writer_.columns();
    if (nb::len(values) != columns.size() || rows == 0) {
      Throw(InvalidArgument("a row group needs rows, and values of " +
                            std::to_string(columns.size()) + " columns"));
    }
    std::vector<const char*> starts;
    for (const Column& column : columns) {
      const auto array = Require<BytesIn>(values[starts.size()], "values must be uint8 arrays");
      const std::size_t expected = rows * column.items * column.width;
      if (array.shape(0) != expected) {
        Throw(InvalidArgument("column '" + column.path[0] + "' has " +
                              std::to_string(array.shape(0)) + " bytes, expected are " +
                              std::to_string(expected)));
      }
      starts.push_back(reinterpret_cast<const char*>(array.data()));
    }
    return starts;
  }

  std::mutex mutex_;
  RowGroupWriter writer_;
};

class PyRowGroupReader {
 public:
  explicit PyRowGroupReader(const std::vector<ColumnTuple>& columns) : reader_(Columns(columns)) {}

  bool Read(const BytesIn& data, const std::vector<std::int64_t>& page_bytes, int codec,
            std::size_t rows, const BytesInto& out, const std::vector<std::int64_t>& places) const {
    const std::vector<Column>& columns = reader_.columns();
    if (page_bytes.size() != columns.size() || places.size() != columns.size()) {
      Throw(InvalidArgument("sizes and places of " + std::to_string(columns.size()) +
                            " columns are needed"));
    }
    std::vector<RowGroupReader::Chunk> chunks;
    const char* page = reinterpret_cast<const char*>(data.data());
    std::size_t left = data.shape(0);
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const auto bytes = static_cast<std::size_t>(page_bytes[i]);
      if (bytes > left) return false;  // a negative one as well
      chunks.push_back({{page, bytes}, Place(columns[i], rows, out, places[i])});
      page += bytes;
      left -= bytes;
    }
    const Codec found = CodecOf(codec);
    return Check([&] {
      GilRelease release;
      return reader_.Read(chunks, found, rows);
    }());
  }

 private:
  // Where a column's values go; null for a negative place.
  static char* Place(const Column& column, std::size_t rows, const BytesInto& out,
                     std::int64_t place) {
    if (place < 0) return nullptr;
    const std::size_t room = out.shape(0) - std::min<std::size_t>(place, out.shape(0));
    if (rows <= room / (column.items * column.width)) {
      return reinterpret_cast<char*>(out.data()) + place;
    }
    Throw(InvalidArgument("there is no room for column '" + column.path[0] + "' at byte " +
                          std::to_string(place)));
  }

  const RowGroupReader reader_;
};

}  // namespace

void BindParquet(nb::module_& module) {
  nb::class_<PyRowGroupWriter>(module, "RowGroupWriter")
      .def(nb::init<const std::vector<ColumnTuple>&, int>(), nb::arg("columns"), nb::arg("codec"))
      .def("write", &PyRowGroupWriter::Write, nb::arg("values"), nb::arg("rows"),
           nb::arg("position"), nb::arg("ordinal"));
  nb::class_<PyRowGroupReader>(module, "RowGroupReader")
      .def(nb::init<const std::vector<ColumnTuple>&>(), nb::arg("columns"))
      .def("read", &PyRowGroupReader::Read, nb::arg("data").noconvert(), nb::arg("page_bytes"),
           nb::arg("codec"), nb::arg("rows"), nb::arg("out").noconvert(), nb::arg("places"));
}

}  // namespace ps::bindings
