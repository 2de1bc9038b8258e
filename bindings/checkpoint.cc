#include "bindings/checkpoint.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "bindings/gil.h"
#include "bindings/status.h"
#include "ps/arrow/export.h"
#include "ps/server/checkpoint_jobs.h"
#include "ps/server/checkpoint_loader.h"
#include "ps/server/checkpoint_snapshot.h"

namespace nb = nanobind;

namespace ps::bindings {
namespace {

using arrow::BatchSource;
using server::CheckpointLoader;
using server::Server;

constexpr const char* kStreamCapsule = "arrow_array_stream";

// Keeps the server for as long as somebody may ask for its batches.
class KeepingSource final : public BatchSource {
 public:
  KeepingSource(std::shared_ptr<Server> server, std::unique_ptr<BatchSource> source)
      : server_(std::move(server)), source_(std::move(source)) {}
  arrow::Field Schema() const override { return source_->Schema(); }
  Result<std::optional<arrow::Batch>> Next() override { return source_->Next(); }

 private:
  const std::shared_ptr<Server> server_;
  const std::unique_ptr<BatchSource> source_;
};

// A capsule that nobody took the stream out of releases it.
void DestroyStreamCapsule(PyObject* capsule) {
  auto* stream = static_cast<ArrowArrayStream*>(PyCapsule_GetPointer(capsule, kStreamCapsule));
  if (stream->release != nullptr) stream->release(stream);
  delete stream;
}

class PyRecordStream {
 public:
  explicit PyRecordStream(std::unique_ptr<BatchSource> source) : source_(std::move(source)) {}

  nb::object Capsule(const nb::object&) {
    if (source_ == nullptr) {
      Throw(Status(StatusCode::kClosed, "this stream of record batches has been taken already"));
    }
    auto* stream = new ArrowArrayStream{};
    arrow::ExportStream(std::move(source_), stream);
    return nb::steal(PyCapsule_New(stream, kStreamCapsule, &DestroyStreamCapsule));
  }

 private:
  std::unique_ptr<BatchSource> source_;
};

class PyLoad {
 public:
  PyLoad(std::shared_ptr<Server> server, std::shared_ptr<CheckpointLoader> loader)
      : server_(std::move(server)), loader_(std::move(loader)) {}

  std::uint64_t AddRows(const std::string& table, const nb::object& stream) {
    return Add(stream, [&](ArrowArrayStream* s) { return loader_->AddRows(table, s); });
  }
  std::uint64_t AddWeights(const nb::object& stream) {
    return Add(stream, [&](ArrowArrayStream* s) { return loader_->AddWeights(s); });
  }
  std::uint64_t AddLedger(const nb::object& stream) {
    return Add(stream, [&](ArrowArrayStream* s) { return loader_->AddLedger(s); });
  }
  void CheckComplete() const { Check(loader_->CheckComplete()); }
  void Commit() {
    Check([&] {
      GilRelease release;
      return loader_->Commit();
    }());
  }

 private:
  template <typename Call>
  std::uint64_t Add(const nb::object& object, Call call) {
    nb::object capsule = object.attr("__arrow_c_stream__")();
    void* stream = PyCapsule_GetPointer(capsule.ptr(), kStreamCapsule);
    if (stream == nullptr) throw nb::python_error();
    return Check([&] {
      GilRelease release;
      return call(static_cast<ArrowArrayStream*>(stream));
    }());
  }

  const std::shared_ptr<Server> server_;  // outlives the loader
  const std::shared_ptr<CheckpointLoader> loader_;
};

class PyCheckpoints {
 public:
  explicit PyCheckpoints(std::shared_ptr<Server> server) : server_(std::move(server)) {}

  std::optional<std::tuple<std::string, std::string>> Take(double timeout_seconds) {
    GilRelease release;
    auto job = server_->checkpoint_jobs().Take(std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(std::clamp(timeout_seconds, 0.0, 3'600.0))));
    if (!job.has_value()) return std::nullopt;
    return std::tuple(std::move(job->name), std::move(job->task));
  }
  bool Report(const std::string& job, const std::string& progress_json) {
    return server_->checkpoint_jobs().Report(job, progress_json);
  }
  void Finish(const std::string& job, const std::string& result_json) {
    server_->checkpoint_jobs().Finish(job, result_json);
  }
  void Fail(const std::string& job, const std::string& error_class, const std::string& message) {
    server_->checkpoint_jobs().Fail(job, error_class, message);
  }
  std::string Definition() const { return Check(server_->DefinitionJson()); }

  PyRecordStream Rows(const std::string& table, PartitionId first, PartitionId last, bool states) {
    return Stream(server_->snapshots().Rows(table, first, last, states));
  }
  PyRecordStream Weights(bool states) { return Stream(server_->snapshots().Weights(states)); }
  PyRecordStream Ledger() { return Stream(server_->snapshots().Ledger()); }

  PyLoad Load(const std::string& plan_json) {
    return PyLoad(server_, Check(server_->StartLoad(plan_json)));
  }

 private:
  PyRecordStream Stream(Result<std::unique_ptr<BatchSource>> source) {
    return PyRecordStream(std::make_unique<KeepingSource>(server_, Check(std::move(source))));
  }

  const std::shared_ptr<Server> server_;
};

}  // namespace

nb::object MakeCheckpoints(std::shared_ptr<Server> server) {
  return nb::cast(PyCheckpoints(std::move(server)));
}

void BindCheckpoint(nb::module_& module) {
  nb::class_<PyRecordStream>(module, "RecordStream")
      .def("__arrow_c_stream__", &PyRecordStream::Capsule,
           nb::arg("requested_schema") = nb::none());
  nb::class_<PyLoad>(module, "Load")
      .def("add_rows", &PyLoad::AddRows, nb::arg("table"), nb::arg("stream"))
      .def("add_weights", &PyLoad::AddWeights, nb::arg("stream"))
      .def("add_ledger", &PyLoad::AddLedger, nb::arg("stream"))
      .def("check_complete", &PyLoad::CheckComplete)
      .def("commit", &PyLoad::Commit);
  nb::class_<PyCheckpoints>(module, "Checkpoints")
      .def("take", &PyCheckpoints::Take, nb::arg("timeout_seconds"))
      .def("report", &PyCheckpoints::Report, nb::arg("job"), nb::arg("progress_json"))
      .def("finish", &PyCheckpoints::Finish, nb::arg("job"), nb::arg("result_json"))
      .def("fail", &PyCheckpoints::Fail, nb::arg("job"), nb::arg("error_class"), nb::arg("message"))
      .def("definition", &PyCheckpoints::Definition)
      .def("rows", &PyCheckpoints::Rows, nb::arg("table"), nb::arg("first"), nb::arg("last"),
           nb::arg("states"))
      .def("weights", &PyCheckpoints::Weights, nb::arg("states"))
      .def("ledger", &PyCheckpoints::Ledger)
      .def("load", &PyCheckpoints::Load, nb::arg("plan_json"));
}

}  // namespace ps::bindings
