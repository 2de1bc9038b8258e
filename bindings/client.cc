#include "bindings/client.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/options.h"
#include "ps/client/client.h"

namespace nb = nanobind;

namespace ps::bindings {
namespace {

using client::Client;

client::ClientOptions ParseOptions(const std::string& text, std::string secret) {
  client::ClientOptions options;
  try {
    const sharding::Json json = ParseOptionsObject("client options", text);
    for (const auto& server : json.at("servers")) {
      client::ServerAddress address;
      address.server_id = server.at("server_id").get<ServerId>();
      address.endpoint.host = server.at("host").get<std::string>();
      address.endpoint.port = server.at("port").get<int>();
      address.endpoint.unix_path = server.value("unix_path", "");
      address.incarnation = server.value("incarnation", std::uint64_t{0});
      options.servers.push_back(std::move(address));
    }
    if (std::string coordinator = json.value("coordinator", ""); !coordinator.empty()) {
      options.coordinator = Check(net::ParseEndpoint(coordinator));
    }
    options.tls_fingerprint = json.value("tls_fingerprint", "");
    options.timeout_seconds = json.value("timeout_seconds", options.timeout_seconds);
    options.peer_silence_seconds =
        json.value("driver_silence_seconds", options.peer_silence_seconds);
    options.batch_size = json.value("batch_size", options.batch_size);
    options.message_bytes_max = json.value("max_message_size", options.message_bytes_max);
    options.transport = Check(net::ParseTransport(json.value("transport", "auto")));
    options.compression = Check(wire::ParseCompression(json.value("compression", "lz4")));
  } catch (const nlohmann::json::exception& error) {
    Throw(Status(StatusCode::kConfiguration, std::string("client options: ") + error.what()));
  }
  options.secret = std::move(secret);
  options.is_interrupted = &IsInterrupted;
  return options;
}

using TensorArray = nb::ndarray<nb::numpy, const float, nb::ndim<1>>;

TensorArray ShareTensor(std::shared_ptr<const client::TensorValue> value) {
  auto* held = new std::shared_ptr<const client::TensorValue>(std::move(value));
  nb::capsule owner(held, [](void* pointer) noexcept {
    delete static_cast<std::shared_ptr<const client::TensorValue>*>(pointer);
  });
  return TensorArray((*held)->values.get(), {(*held)->floats}, owner);
}

template <typename Call>
auto WithoutGil(Call call) {
  auto result = [&] {
    GilRelease release;
    return call();
  }();
  return Check(std::move(result));
}

// Owns a core client; what waits runs without the GIL. The arrays of a call are held by its frame.
class PyClient {
 public:
  PyClient(const std::string& options_json, const nb::bytes& secret) {
    auto options = ParseOptions(
        options_json, std::string(static_cast<const char*>(secret.data()), secret.size()));
    client_ = WithoutGil([&] { return Client::Connect(std::move(options)); });
  }
  ~PyClient() {
    GilRelease release;
    client_.reset();
  }

  std::string Definition() { return Known()->ToJson(); }
  void Refresh() {
    WithoutGil([&] { return client_->Refresh(); });
  }

  // None for a tensor without values, with `if_present`.
  std::vector<std::optional<TensorArray>> Pull(const nb::sequence& rows,
                                               const nb::sequence& tensors, bool if_present) {
    std::vector<nb::object> held;
    std::vector<client::RowsPull> row_pulls;
    for (nb::handle item : rows) {
      auto [table, keys_object, out_object, create] =
          nb::cast<std::tuple<TableId, nb::object, nb::object, bool>>(item);
      auto keys = Require<KeyArray>(keys_object, "keys must be a uint64 array of one dimension");
      auto out =
          Require<RowsOut>(out_object, "out must be a writable float32 array of two dimensions");
      CheckShape(table, keys.shape(0), out.shape(0), out.shape(1));
      row_pulls.push_back({table, {keys.data(), keys.shape(0)}, out.data(), create});
      held.push_back(std::move(keys_object));
      held.push_back(std::move(out_object));
    }
    auto tensor_ids = nb::cast<std::vector<TensorId>>(tensors);
    std::vector<std::shared_ptr<const client::TensorValue>> values(tensor_ids.size());
    std::vector<client::TensorPull> tensor_pulls;
    tensor_pulls.reserve(tensor_ids.size());
    for (std::size_t i = 0; i < tensor_ids.size(); ++i) {
      tensor_pulls.push_back({tensor_ids[i], nullptr, &values[i], if_present});
    }
    WithoutGil([&] { return client_->Pull(row_pulls, tensor_pulls); });
    std::vector<std::optional<TensorArray>> arrays(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] != nullptr) arrays[i] = ShareTensor(std::move(values[i]));
    }
    return arrays;
  }

  void Push(const nb::sequence& rows, const nb::sequence& tensors, std::uint64_t stream,
            std::uint64_t sequence, float rate_scale) {
    std::vector<nb::object> held;
    std::vector<client::RowsPush> row_pushes;
    for (nb::handle item : rows) {
      auto [table, keys_object, grads_object] =
          nb::cast<std::tuple<TableId, nb::object, nb::object>>(item);
      auto keys = Require<KeyArray>(keys_object, "keys must be a uint64 array of one dimension");
      auto grads =
          Require<RowsIn>(grads_object, "gradients must be a float32 array of two dimensions");
      CheckShape(table, keys.shape(0), grads.shape(0), grads.shape(1));
      row_pushes.push_back({table, {keys.data(), keys.shape(0)}, grads.data()});
      held.push_back(std::move(keys_object));
      held.push_back(std::move(grads_object));
    }
    std::vector<client::TensorPush> tensor_pushes;
    for (nb::handle item : tensors) {
      auto [tensor, values_object, assign, only_if_absent] =
          nb::cast<std::tuple<TensorId, nb::object, bool, bool>>(item);
      auto values =
          Require<FlatFloats>(values_object, "values must be a float32 array of one dimension");
      tensor_pushes.push_back({tensor, {values.data(), values.shape(0)}, assign, only_if_absent});
      held.push_back(std::move(values_object));
    }
    WithoutGil([&] {
      return client_->Push(row_pushes, tensor_pushes, {stream, sequence, rate_scale});
    });
  }

  std::vector<std::string> ControlAll(const std::string& json, bool once) {
    return WithoutGil([&] { return client_->ControlAll(json, once); });
  }
  std::string ControlServer(ServerId server, const std::string& json, bool once) {
    return WithoutGil([&] { return client_->ControlServer(server, json, once); });
  }
  std::string ControlCoordinator(const std::string& json) {
    return WithoutGil([&] { return client_->ControlCoordinator(json); });
  }
  std::string WaitAtCoordinator(const std::string& json, double timeout_seconds) {
    return WithoutGil([&] { return client_->WaitAtCoordinator(json, timeout_seconds); });
  }
  std::map<std::string, std::uint64_t> Stats() const {
    client::ClientStats stats = client_->stats();
    return {{"bytes_sent", stats.bytes_sent},
            {"bytes_received", stats.bytes_received},
            {"retries", stats.retries}};
  }
  void Close() {
    GilRelease release;
    client_->Close();
  }

 private:
  // A forked child may have to ask a server first.
  std::shared_ptr<const sharding::ClusterDefinition> Known() {
    if (client_->definition() == nullptr) Refresh();
    return client_->definition();
  }

  // The core writes keys * dim floats: the array must have them.
  void CheckShape(TableId table, std::size_t keys, std::size_t rows, std::size_t dim) {
    auto definition = Known();
    if (table >= definition->tables.size()) {
      Refresh();
      definition = client_->definition();
    }
    if (table >= definition->tables.size()) {
      Throw(NotFound("table number " + std::to_string(table) + " does not exist"));
    }
    const auto& defined = definition->tables[table];
    if (keys == rows && dim == defined.dim) return;
    Throw(InvalidArgument("table '" + defined.name + "': an array of shape (" +
                          std::to_string(rows) + ", " + std::to_string(dim) + ") for " +
                          std::to_string(keys) + " keys; (" + std::to_string(keys) + ", " +
                          std::to_string(defined.dim) + ") is needed"));
  }

  std::unique_ptr<Client> client_;
};

}  // namespace

void BindClient(nb::module_& module) {
  nb::class_<PyClient>(module, "Client")
      .def(nb::init<const std::string&, const nb::bytes&>(), nb::arg("options_json"),
           nb::arg("secret"))
      .def("definition", &PyClient::Definition)
      .def("refresh", &PyClient::Refresh)
      .def("pull", &PyClient::Pull, nb::arg("rows"), nb::arg("tensors"),
           nb::arg("if_present") = false)
      .def("push", &PyClient::Push, nb::arg("rows"), nb::arg("tensors"), nb::arg("stream") = 0,
           nb::arg("sequence") = 0, nb::arg("rate_scale") = 1.0f)
      .def("control_all", &PyClient::ControlAll, nb::arg("request_json"), nb::arg("once") = false)
      .def("control_server", &PyClient::ControlServer, nb::arg("server"), nb::arg("request_json"),
           nb::arg("once") = false)
      .def("control_coordinator", &PyClient::ControlCoordinator, nb::arg("request_json"))
      .def("wait_at_coordinator", &PyClient::WaitAtCoordinator, nb::arg("request_json"),
           nb::arg("timeout_seconds"))
      .def("stats", &PyClient::Stats)
      .def("close", &PyClient::Close);
}

}  // namespace ps::bindings
