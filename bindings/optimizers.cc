#include "bindings/optimizers.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "ps/optimizers/optimizer.h"

namespace nb = nanobind;

namespace ps::bindings {
namespace {

// An optimizer over rows that lie in NumPy memory: each row of a two-dimensional array is values
// and the state behind them, as in a table.
class PyOptimizer {
 public:
  PyOptimizer(const std::string& name, std::map<std::string, double> params) {
    auto optimizer = optimizers::Optimizer::Create({name, std::move(params)});
    if (!optimizer.ok()) Throw(Status(StatusCode::kConfiguration, optimizer.status().message()));
    optimizer_ = std::move(optimizer).value();
  }

  std::string name() const { return optimizer_->config().name; }
  std::map<std::string, double> params() const { return optimizer_->config().params; }

  std::vector<std::pair<std::string, std::size_t>> StateParts(std::size_t dim) const {
    std::vector<std::pair<std::string, std::size_t>> parts;
    for (auto& part : optimizer_->StateParts(dim)) {
      parts.emplace_back(std::move(part.name), part.floats);
    }
    return parts;
  }

  void InitState(const RowsOut& rows, std::size_t dim) const {
    CheckWidth(rows, dim);
    for (std::size_t i = 0; i < rows.shape(0); ++i) {
      float* row = rows.data() + i * rows.shape(1);
      optimizer_->InitState({row, dim}, {row + dim, rows.shape(1) - dim});
    }
  }

  void Apply(const RowsOut& rows, const RowsIn& grads) const {
    const std::size_t n = rows.shape(0);
    const std::size_t dim = grads.shape(1);
    CheckWidth(rows, dim);
    if (grads.shape(0) != n) {
      Throw(InvalidArgument(std::to_string(grads.shape(0)) + " gradients for " + std::to_string(n) +
                            " rows"));
    }
    std::vector<float*> row_of(n);
    std::vector<const float*> grad_of(n);
    for (std::size_t i = 0; i < n; ++i) {
      row_of[i] = rows.data() + i * rows.shape(1);
      grad_of[i] = grads.data() + i * dim;
    }
    GilRelease release;
    optimizer_->Apply(row_of.data(), grad_of.data(), n, dim, 1.0f);
  }

 private:
  void CheckWidth(const RowsOut& rows, std::size_t dim) const {
    const std::size_t width = dim + optimizer_->StateFloats(dim);
    if (rows.shape(1) == width) return;
    Throw(InvalidArgument("rows of " + std::to_string(rows.shape(1)) + " floats; " +
                          std::to_string(dim) + " values with their state are " +
                          std::to_string(width)));
  }

  std::unique_ptr<optimizers::Optimizer> optimizer_;
};

}  // namespace

void BindOptimizers(nb::module_& module) {
  nb::class_<PyOptimizer>(module, "Optimizer")
      .def(nb::init<const std::string&, std::map<std::string, double>>(), nb::arg("name"),
           nb::arg("params"))
      .def_prop_ro("name", &PyOptimizer::name)
      .def_prop_ro("params", &PyOptimizer::params)
      .def("state_parts", &PyOptimizer::StateParts, nb::arg("dim"))
      .def("init_state", &PyOptimizer::InitState, nb::arg("rows").noconvert(), nb::arg("dim"))
      .def("apply", &PyOptimizer::Apply, nb::arg("rows").noconvert(), nb::arg("grads").noconvert());
}

}  // namespace ps::bindings
