#include "bindings/keys.h"

#include <nanobind/stl/pair.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "ps/base/hash.h"
#include "ps/base/types.h"

namespace nb = nanobind;

namespace ps::bindings {
namespace {

using KeysOut = NumpyArray<std::uint64_t>;

// Offsets come from Arrow buffers that a file may have filled: nothing is read beyond the data.
template <typename Offset>
KeysOut HashStrings(const Array<const Offset, 1>& offsets,
                    const Array<const std::uint8_t, 1>& data) {
  if (offsets.shape(0) == 0) Throw(InvalidArgument("offsets of n strings are n + 1 numbers"));
  const std::size_t count = offsets.shape(0) - 1;
  auto keys = std::make_unique_for_overwrite<std::uint64_t[]>(count);
  const Offset* ends = offsets.data();
  const auto* bytes = reinterpret_cast<const char*>(data.data());
  bool is_sound = ends[0] >= 0;
  {
    GilRelease release;
    for (std::size_t i = 0; is_sound && i < count; ++i) {
      is_sound = ends[i] <= ends[i + 1] && static_cast<std::uint64_t>(ends[i + 1]) <= data.shape(0);
      if (!is_sound) break;
      keys[i] = HashBytes({bytes + ends[i], static_cast<std::size_t>(ends[i + 1] - ends[i])});
    }
  }
  if (!is_sound) Throw(DataCorruption("offsets of strings do not ascend within their data"));
  return MakeArray(std::move(keys), count);
}

// The types that NumPy and pandas add to Python's own; looked up when an object is none of those.
struct ForeignTypes {
  nb::object numpy = nb::module_::import_("numpy");
  nb::object boolean = numpy.attr("bool_");
  nb::object integer = numpy.attr("integer");
};

class ObjectHasher {
 public:
  std::uint64_t operator()(PyObject* object, Py_ssize_t position) {
    if (object == Py_None) return kNullKey;
    if (PyBool_Check(object)) return object == Py_True;
    if (PyLong_Check(object)) return OfInteger(object, position);
    if (PyUnicode_Check(object)) {
      Py_ssize_t size = 0;
      const char* text = PyUnicode_AsUTF8AndSize(object, &size);
      if (text == nullptr) Refuse(object, position, "has no UTF-8 form");
      return HashBytes({text, static_cast<std::size_t>(size)});
    }
    if (PyBytes_Check(object)) {
      return HashBytes({PyBytes_AS_STRING(object), static_cast<std::size_t>(Py_SIZE(object))});
    }
    return OfForeign(object, position);
  }

 private:
  std::uint64_t OfInteger(PyObject* object, Py_ssize_t position) {
    int overflow = 0;
    long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow == 0) return static_cast<std::uint64_t>(value);
    unsigned long long large = overflow > 0 ? PyLong_AsUnsignedLongLong(object) : ~0ull;
    if (overflow < 0 || PyErr_Occurred() != nullptr) {
      Refuse(object, position, "does not fit into 64 bits");
    }
    return large;
  }

  std::uint64_t OfForeign(PyObject* object, Py_ssize_t position) {
    if (!foreign_) foreign_ = std::make_unique<ForeignTypes>();
    nb::handle handle(object);
    if (PyObject_IsInstance(object, foreign_->boolean.ptr()) == 1) {
      return PyObject_IsTrue(object) == 1;
    }
    if (PyObject_IsInstance(object, foreign_->integer.ptr()) == 1) {
      nb::object integer = nb::steal(PyNumber_Index(object));
      if (!integer.is_valid()) throw nb::python_error();
      return OfInteger(integer.ptr(), position);
    }
    std::string_view type = Py_TYPE(object)->tp_name;
    if (type.ends_with("NAType")) return kNullKey;  // pandas.NA
    if (nb::hasattr(handle, "as_py")) {             // an Arrow scalar
      nb::object plain = handle.attr("as_py")();
      if (!nb::hasattr(plain, "as_py")) return (*this)(plain.ptr(), position);
    }
    Refuse(object, position, "is neither an integer, a boolean, a string, bytes nor null");
  }

  [[noreturn]] void Refuse(PyObject* object, Py_ssize_t position, const char* why) {
    PyErr_Clear();
    std::string shown;
    if (nb::object text = nb::steal(PyObject_ASCII(object)); text.is_valid()) {
      shown = nb::cast<std::string>(text).substr(0, 80);
    }
    PyErr_Clear();
    Throw(InvalidArgument("id " + shown + " at position " + std::to_string(position) + " (" +
                          Py_TYPE(object)->tp_name + ") " + why));
  }

  std::unique_ptr<ForeignTypes> foreign_;
};

KeysOut HashObjects(nb::handle objects) {
  nb::object sequence = nb::steal(PySequence_Fast(objects.ptr(), "ids must be a list or an array"));
  if (!sequence.is_valid()) throw nb::python_error();
  const auto count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(sequence.ptr()));
  auto keys = std::make_unique_for_overwrite<std::uint64_t[]>(count);
  ObjectHasher hash;
  for (std::size_t i = 0; i < count; ++i) {
    // An object's own code may shorten the list while it is read.
    const auto at = static_cast<Py_ssize_t>(i);
    if (at >= PySequence_Fast_GET_SIZE(sequence.ptr())) {
      Throw(InvalidArgument("the list of ids changed while it was read"));
    }
    keys[i] = hash(PySequence_Fast_GET_ITEM(sequence.ptr(), at), at);
  }
  return MakeArray(std::move(keys), count);
}

constexpr std::size_t kKeysMax = std::numeric_limits<std::int32_t>::max();  // positions are int32

// The caller's key `input`.
struct Occurrence {
  Key key;
  std::uint32_t input;
};

// Ascending by key: a radix sort, lowest digit first. Digits in which all keys agree cost nothing,
// so ids below 2^22 take two passes.
std::vector<Occurrence> SortedByKey(std::span<const Key> keys) {
  constexpr unsigned kDigitBits = 11;
  constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;
  std::vector<Occurrence> sorted(keys.size());
  std::vector<Occurrence> moved(keys.size());
  Key differing = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    sorted[i] = {keys[i], static_cast<std::uint32_t>(i)};
    differing |= keys[i] ^ keys[0];
  }
  for (unsigned shift = 0; shift < 64 && differing >> shift != 0; shift += kDigitBits) {
    auto digit = [shift](Key key) { return (key >> shift) & (kDigits - 1); };
    if (digit(differing) == 0) continue;
    std::array<std::uint32_t, kDigits> next{};
    for (const Occurrence& one : sorted) ++next[digit(one.key)];
    std::exclusive_scan(next.begin(), next.end(), next.begin(), 0u);
    for (const Occurrence& one : sorted) moved[next[digit(one.key)]++] = one;
    sorted.swap(moved);
  }
  return sorted;
}

// Ascending keys are known to be distinct by a look at each and the one before it.
std::pair<KeysOut, NumpyArray<std::int32_t>> Unique(const KeyArray& keys) {
  const std::size_t count = keys.shape(0);
  if (count > kKeysMax) {
    Throw(InvalidArgument(std::to_string(count) + " keys are more than 2^31 - 1"));
  }
  auto positions = std::make_unique_for_overwrite<std::int32_t[]>(count);
  std::unique_ptr<std::uint64_t[]> out;
  std::size_t distinct_count = 0;
  {
    GilRelease release;
    const std::vector<Occurrence> sorted = SortedByKey({keys.data(), count});
    for (std::size_t i = 0; i < count; ++i) {
      if (i == 0 || sorted[i].key != sorted[i - 1].key) ++distinct_count;
      positions[sorted[i].input] = static_cast<std::int32_t>(distinct_count - 1);
    }
    out = std::make_unique_for_overwrite<std::uint64_t[]>(distinct_count);
    for (const Occurrence& one : sorted) out[positions[one.input]] = one.key;
  }
  return {MakeArray(std::move(out), distinct_count), MakeArray(std::move(positions), count)};
}

}  // namespace

void BindKeys(nb::module_& module) {
  module.attr("NULL_KEY") = nb::int_(kNullKey);
  module.def("hash_strings", &HashStrings<std::int64_t>, nb::arg("offsets").noconvert(),
             nb::arg("data").noconvert());
  module.def("hash_strings", &HashStrings<std::int32_t>, nb::arg("offsets").noconvert(),
             nb::arg("data").noconvert());
  module.def(
      "hash_bytes",
      [](const nb::bytes& data) {
        return HashBytes({static_cast<const char*>(data.data()), data.size()});
      },
      nb::arg("data"));
  module.def("hash_objects", &HashObjects, nb::arg("objects"));
  module.def("unique", &Unique, nb::arg("keys").noconvert());
}

}  // namespace ps::bindings
