#include "bindings/segments.h"

#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"

namespace nb = nanobind;

namespace ps::bindings {
namespace {

using Positions = Array<const std::int32_t, 1>;
using Offsets = Array<const std::int64_t, 1>;

// One feature of a batch: which rows its samples look up, and the columns of the batch's matrix
// that they fill. Without offsets sample i has the one position i; with offsets, those from
// offsets[i] to offsets[i + 1] - 1, whose rows are averaged (none: zeros). Rows: `const float` to
// read, `float` to add to.
template <typename Row>
struct Lookup {
  Row* rows;
  std::size_t row_count;
  std::size_t dim;
  std::span<const std::int32_t> positions;
  std::span<const std::int64_t> offsets;
  std::size_t column;
};

// The look-ups of one call, and the Python objects that own their memory.
template <typename Row>
struct Lookups {
  std::vector<Lookup<Row>> items;
  std::vector<nb::object> held;
};

template <typename Row>
Lookups<Row> Parse(const nb::sequence& lookups) {
  Lookups<Row> parsed;
  for (nb::handle item : lookups) {
    auto [rows_object, positions_object, offsets_object, column] =
        nb::cast<std::tuple<nb::object, nb::object, nb::object, std::size_t>>(item);
    auto rows = Require<Array<Row, 2>>(rows_object, "rows must be a float32 array (rows, dim)");
    auto positions = Require<Positions>(positions_object, "positions must be an int32 array (n,)");
    Lookup<Row> lookup{rows.data(), rows.shape(0), rows.shape(1), {}, {}, column};
    lookup.positions = {positions.data(), positions.shape(0)};
    if (!offsets_object.is_none()) {
      auto offsets = Require<Offsets>(offsets_object, "offsets must be an int64 array (n + 1,)");
      lookup.offsets = {offsets.data(), offsets.shape(0)};
      if (lookup.offsets.empty()) Throw(InvalidArgument("offsets of n lists are n + 1 numbers"));
    }
    parsed.items.push_back(lookup);
    parsed.held.push_back(std::move(rows_object));
    parsed.held.push_back(std::move(positions_object));
    parsed.held.push_back(std::move(offsets_object));
  }
  return parsed;
}

// What is wrong with a look-up for a matrix of this shape; nothing is read or written outside.
template <typename Row>
std::optional<std::string> Fault(const Lookup<Row>& lookup, std::size_t samples,
                                 std::size_t width) {
  if (lookup.dim > width || lookup.column > width - lookup.dim) {
    return "columns " + std::to_string(lookup.column) + " to " +
           std::to_string(lookup.column + lookup.dim) + " of " + std::to_string(width);
  }
  const std::size_t count =
      lookup.offsets.empty() ? lookup.positions.size() : lookup.offsets.size() - 1;
  if (count != samples) {
    return std::to_string(count) + " look-ups for " + std::to_string(samples) + " samples";
  }
  if (!lookup.offsets.empty() &&
      (lookup.offsets.front() < 0 ||
       static_cast<std::uint64_t>(lookup.offsets.back()) > lookup.positions.size() ||
       !std::is_sorted(lookup.offsets.begin(), lookup.offsets.end()))) {
    return "offsets that do not ascend within their positions";
  }
  std::uint32_t largest = 0;  // a negative one counts as a large one
  for (std::int32_t position : lookup.positions) {
    largest = std::max(largest, static_cast<std::uint32_t>(position));
  }
  if (!lookup.positions.empty() && largest >= lookup.row_count) {
    return "position " + std::to_string(static_cast<std::int32_t>(largest)) + " in " +
           std::to_string(lookup.row_count) + " rows";
  }
  return std::nullopt;
}

// Samples whose columns are fetched into the cache ahead of use: a feature strides through the
// matrix, beyond what processors foresee.
constexpr std::size_t kPrefetchAhead = 8;

template <typename Work>
void WithDim(std::size_t dim, Work work) {  // usual dims as constants make loops of a few moves
  switch (dim) {
    case 4:
      return work(std::integral_constant<std::size_t, 4>());
    case 8:
      return work(std::integral_constant<std::size_t, 8>());
    case 16:
      return work(std::integral_constant<std::size_t, 16>());
    case 32:
      return work(std::integral_constant<std::size_t, 32>());
    case 64:
      return work(std::integral_constant<std::size_t, 64>());
    default:
      return work(dim);
  }
}

void AddScaled(float* __restrict to, const float* __restrict from, std::size_t dim, float scale) {
  for (std::size_t i = 0; i < dim; ++i) to[i] += scale * from[i];
}

// The positions of one sample's list, and the share of each in the mean.
struct Segment {
  std::span<const std::int32_t> positions;
  float share;
};

template <typename Row>
Segment SegmentOf(const Lookup<Row>& lookup, std::size_t sample) {
  const auto first = static_cast<std::size_t>(lookup.offsets[sample]);
  const auto last = static_cast<std::size_t>(lookup.offsets[sample + 1]);
  return {lookup.positions.subspan(first, last - first),
          last == first ? 0.0f : 1.0f / static_cast<float>(last - first)};
}

void GatherFeature(const Lookup<const float>& lookup, float* out, std::size_t width) {
  if (!lookup.offsets.empty()) {
    for (std::size_t sample = 0; sample + 1 < lookup.offsets.size(); ++sample, out += width) {
      std::fill(out, out + lookup.dim, 0.0f);
      auto [positions, share] = SegmentOf(lookup, sample);
      for (std::int32_t position : positions) {
        AddScaled(out, lookup.rows + static_cast<std::size_t>(position) * lookup.dim, lookup.dim,
                  share);
      }
    }
    return;
  }
  WithDim(lookup.dim, [&](auto dim) {
    for (std::int32_t position : lookup.positions) {
      __builtin_prefetch(out + kPrefetchAhead * width, 1);
      std::memcpy(out, lookup.rows + static_cast<std::size_t>(position) * dim, dim * sizeof(float));
      out += width;
    }
  });
}

void SumFeature(const Lookup<float>& lookup, const float* gradient, std::size_t width) {
  if (!lookup.offsets.empty()) {
    for (std::size_t sample = 0; sample + 1 < lookup.offsets.size(); ++sample, gradient += width) {
      auto [positions, share] = SegmentOf(lookup, sample);
      for (std::int32_t position : positions) {
        AddScaled(lookup.rows + static_cast<std::size_t>(position) * lookup.dim, gradient,
                  lookup.dim, share);
      }
    }
    return;
  }
  WithDim(lookup.dim, [&](auto dim) {
    for (std::int32_t position : lookup.positions) {
      __builtin_prefetch(gradient + kPrefetchAhead * width);
      float* __restrict row = lookup.rows + static_cast<std::size_t>(position) * dim;
      for (std::size_t i = 0; i < dim; ++i) row[i] += gradient[i];
      gradient += width;
    }
  });
}

// Checks all look-ups, then does `work` for each, without the GIL: it is released once in a call,
// for with other Python threads at work each return to it may have to wait.
template <typename Row, typename Work>
void ForEach(const Lookups<Row>& lookups, std::size_t samples, std::size_t width, Work work) {
  std::optional<std::string> fault;
  {
    GilRelease release;
    for (const auto& lookup : lookups.items) {
      if (!fault) fault = Fault(lookup, samples, width);
    }
    if (!fault) {
      for (const auto& lookup : lookups.items) work(lookup);
    }
  }
  if (fault) Throw(InvalidArgument("look-ups: " + *fault));
}

void GatherRows(const RowsOut& matrix, const nb::sequence& lookups) {
  const std::size_t width = matrix.shape(1);
  ForEach(Parse<const float>(lookups), matrix.shape(0), width,
          [&](const Lookup<const float>& lookup) {
            GatherFeature(lookup, matrix.data() + lookup.column, width);
          });
}

void SumRows(const RowsIn& matrix, const nb::sequence& lookups) {
  const std::size_t width = matrix.shape(1);
  ForEach(Parse<float>(lookups), matrix.shape(0), width, [&](const Lookup<float>& lookup) {
    SumFeature(lookup, matrix.data() + lookup.column, width);
  });
}

}  // namespace

void BindSegments(nb::module_& module) {
  module.def("gather_rows", &GatherRows, nb::arg("matrix").noconvert(), nb::arg("lookups"));
  module.def("sum_rows", &SumRows, nb::arg("matrix").noconvert(), nb::arg("lookups"));
}

}  // namespace ps::bindings
