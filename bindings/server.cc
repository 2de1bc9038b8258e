#include "bindings/server.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "bindings/checkpoint.h"
#include "bindings/gil.h"
#include "bindings/options.h"
#include "bindings/status.h"
#include "ps/coordinator/coordinator.h"
#include "ps/server/server.h"
#include "ps/sharding/cluster_definition.h"

namespace nb = nanobind;

namespace ps::bindings {
namespace {

using coordinator::Coordinator;
using coordinator::CoordinatorOptions;
using nlohmann::json;
using server::Server;
using server::ServerOptions;

// How late a signal is noticed by a call that waits.
constexpr Duration kSignalCheckInterval = std::chrono::milliseconds(200);

Duration Seconds(double seconds) {
  constexpr double kYear = 3.2e7;
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::clamp(seconds, 0.0, kYear)));
}

// Fields of an options object by name; those that nobody asked for are refused at the end.
class Fields {
 public:
  Fields(const char* what, const std::string& text)
      : what_(what), object_(ParseOptionsObject(what, text)) {}

  template <typename T>
  void Read(const char* name, T* out) {
    known_.insert(name);
    if (object_.contains(name)) *out = object_.at(name).get<T>();
  }
  const json* Find(const char* name) {
    known_.insert(name);
    return object_.contains(name) ? &object_.at(name) : nullptr;
  }
  void RefuseOthers() const {
    for (const auto& [name, value] : object_.items()) {
      if (known_.count(name) != 0) continue;
      Throw(Status(StatusCode::kConfiguration,
                   std::string(what_) + ": there is no option '" + name + "'"));
    }
  }

 private:
  const char* const what_;
  const json object_;
  std::set<std::string> known_;
};

[[noreturn]] void ThrowWrong(const char* what, const json::exception& error) {
  Throw(Status(StatusCode::kConfiguration, std::string(what) + ": " + error.what()));
}

ServerOptions ParseServerOptions(const std::string& text) {
  ServerOptions options;
  try {
    Fields fields("server options", text);
    fields.Read("server_id", &options.server_id);
    fields.Read("bind_host", &options.bind_host);
    fields.Read("advertised_host", &options.advertised_host);
    fields.Read("port_base", &options.port_base);
    fields.Read("ports_tried_max", &options.ports_tried_max);
    fields.Read("unix_dir", &options.unix_dir);
    fields.Read("shard_threads", &options.shard_threads);
    fields.Read("rows_max", &options.rows_max);
    fields.Read("message_bytes_max", &options.message_bytes_max);
    fields.Read("requests_in_flight_bytes_max", &options.requests_in_flight_bytes_max);
    fields.Read("driver_silence_seconds", &options.driver_silence_seconds);
    fields.Read("metrics_port", &options.metrics_port);
    std::string log_level = "off";
    fields.Read("log_level", &log_level);
    options.log_level = Check(ParseLogLevel(log_level));
    std::string compression = "none";
    fields.Read("compression", &compression);
    options.compression = Check(wire::ParseCompression(compression));
    std::string coordinator_address;
    fields.Read("coordinator", &coordinator_address);
    if (!coordinator_address.empty()) {
      options.coordinator = Check(net::ParseEndpoint(coordinator_address));
    }
    fields.RefuseOthers();
  } catch (const json::exception& error) {
    ThrowWrong("server options", error);
  }
  return options;
}

CoordinatorOptions ParseCoordinatorOptions(const std::string& text) {
  CoordinatorOptions options;
  try {
    Fields fields("coordinator options", text);
    fields.Read("bind_host", &options.bind_host);
    fields.Read("advertised_host", &options.advertised_host);
    fields.Read("port_base", &options.port_base);
    fields.Read("ports_tried_max", &options.ports_tried_max);
    fields.Read("server_count", &options.server_count);
    fields.Read("virtual_nodes", &options.virtual_nodes);
    fields.Read("partition_count", &options.partition_count);
    fields.Read("weight_replicas", &options.weight_replicas);
    fields.Read("seed", &options.seed);
    fields.Read("timeout_seconds", &options.timeout_seconds);
    fields.Read("driver_silence_seconds", &options.driver_silence_seconds);
    if (const json* optimizer = fields.Find("weight_optimizer")) {
      optimizer->at("name").get_to(options.weight_optimizer.name);
      optimizer->at("params").get_to(options.weight_optimizer.params);
    }
    if (const json* tables = fields.Find("tables")) {
      for (const json& table : *tables) {
        options.tables.push_back(Check(sharding::TableFromJson(table.dump())));
      }
    }
    fields.RefuseOthers();
  } catch (const json::exception& error) {
    ThrowWrong("coordinator options", error);
  }
  return options;
}

std::string Text(const nb::bytes& bytes) {
  return std::string(static_cast<const char*>(bytes.data()), bytes.size());
}

using Tls = std::shared_ptr<const net::TlsIdentity>;

// Of PEM texts; both empty: no TLS.
Tls MakeTls(const std::string& certificate, const std::string& key) {
  if (certificate.empty() && key.empty()) return nullptr;
  return Check(net::TlsIdentity::Make({certificate, key}));
}

class PyServer {
 public:
  PyServer(const std::string& options_json, const nb::bytes& secret, const std::string& certificate,
           const std::string& key) {
    ServerOptions options = ParseServerOptions(options_json);
    options.secret = Text(secret);
    options.tls = MakeTls(certificate, key);
    server_ = Check([&] {
      GilRelease release;
      return Server::Start(std::move(options));
    }());
  }
  ~PyServer() {
    GilRelease release;
    server_.reset();
  }

  int port() const { return server_->port(); }
  std::string unix_path() const { return server_->unix_path(); }
  std::uint64_t incarnation() const { return server_->incarnation(); }

  std::optional<std::string> WaitEnded(double timeout_seconds) {
    SteadyTime deadline = std::chrono::steady_clock::now() + Seconds(timeout_seconds);
    while (true) {
      std::optional<std::string> reason;
      Duration left = deadline - std::chrono::steady_clock::now();
      {
        GilRelease release;
        reason = server_->WaitEnded(std::clamp(left, Duration::zero(), kSignalCheckInterval));
      }
      if (reason.has_value() || left <= kSignalCheckInterval) return reason;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
  }
  void Stop(double grace_seconds) {
    GilRelease release;
    server_->Stop(Seconds(grace_seconds));
  }
  std::string Stats() {
    GilRelease release;
    return server_->StatsJson();
  }
  nb::object Checkpoints() const { return MakeCheckpoints(server_); }

 private:
  std::shared_ptr<Server> server_;  // streams of its rows keep it, too
};

class PyCoordinator {
 public:
  PyCoordinator(const std::string& options_json, const nb::bytes& secret,
                const std::string& certificate, const std::string& key) {
    CoordinatorOptions options = ParseCoordinatorOptions(options_json);
    options.log_level = LogLevel::kWarning;
    options.secret = Text(secret);
    options.tls = MakeTls(certificate, key);
    coordinator_ = Check([&] {
      GilRelease release;
      return Coordinator::Start(std::move(options));
    }());
  }
  ~PyCoordinator() { Close(); }

  std::string address() const { return Get()->endpoint().ToString(); }

  void WaitRunning(double timeout_seconds) {
    std::shared_ptr<Coordinator> coordinator = Get();
    SteadyTime deadline = std::chrono::steady_clock::now() + Seconds(timeout_seconds);
    while (true) {
      SteadyTime slice = std::min(deadline, SteadyTime::clock::now() + kSignalCheckInterval);
      Status status;
      {
        GilRelease release;
        status = coordinator->WaitRunning(slice);
      }
      if (status.code() != StatusCode::kTimeout || slice == deadline) return Check(status);
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
  }

  std::string Servers() const { return coordinator::ServersToJson(Get()->Servers()); }
  std::string Definition() const { return Get()->definition()->ToJson(); }

  void StopServers(double grace_seconds, double timeout_seconds) {
    std::shared_ptr<Coordinator> coordinator = Get();
    Check([&] {
      GilRelease release;
      return coordinator->StopServers(grace_seconds,
                                      std::chrono::steady_clock::now() + Seconds(timeout_seconds));
    }());
  }

  // Calls under way in other threads keep the coordinator until they return. In a process that was
  // forked from the coordinator's it has no threads and cannot be ended: it is left as it is.
  void Close() {
    std::shared_ptr<Coordinator> last = std::move(coordinator_);
    coordinator_ = nullptr;
    if (::getpid() != pid_) {
      new std::shared_ptr<Coordinator>(std::move(last));
      return;
    }
    GilRelease release;
    last.reset();
  }

 private:
  std::shared_ptr<Coordinator> Get() const {
    if (coordinator_ == nullptr) {
      Throw(Status(StatusCode::kClosed, "the coordinator is closed"));
    }
    return coordinator_;
  }

  const pid_t pid_ = ::getpid();
  std::shared_ptr<Coordinator> coordinator_;
};

}  // namespace

void BindServer(nb::module_& module) {
  module.def("make_certificate", [] {
    net::TlsCredentials made = Check(net::MakeCredentials());
    return std::make_pair(made.certificate, made.key);
  });
  module.def(
      "certificate_fingerprint",
      [](const std::string& certificate) {
        return Check(net::CertificateFingerprint(certificate));
      },
      nb::arg("certificate"));
  module.def(
      "check_certificate_key",
      [](const std::string& certificate, const std::string& key) {
        Check(net::TlsIdentity::Make({certificate, key}));
      },
      nb::arg("certificate"), nb::arg("key"));
  nb::class_<PyServer>(module, "Server")
      .def(nb::init<const std::string&, const nb::bytes&, const std::string&, const std::string&>(),
           nb::arg("options_json"), nb::arg("secret"), nb::arg("certificate") = "",
           nb::arg("key") = "")
      .def_prop_ro("port", &PyServer::port)
      .def_prop_ro("unix_path", &PyServer::unix_path)
      .def_prop_ro("incarnation", &PyServer::incarnation)
      .def("wait_ended", &PyServer::WaitEnded, nb::arg("timeout_seconds"))
      .def("stop", &PyServer::Stop, nb::arg("grace_seconds"))
      .def("stats", &PyServer::Stats)
      .def("checkpoints", &PyServer::Checkpoints);
  nb::class_<PyCoordinator>(module, "Coordinator")
      .def(nb::init<const std::string&, const nb::bytes&, const std::string&, const std::string&>(),
           nb::arg("options_json"), nb::arg("secret"), nb::arg("certificate") = "",
           nb::arg("key") = "")
      .def_prop_ro("address", &PyCoordinator::address)
      .def("wait_running", &PyCoordinator::WaitRunning, nb::arg("timeout_seconds"))
      .def("servers", &PyCoordinator::Servers)
      .def("definition", &PyCoordinator::Definition)
      .def("stop_servers", &PyCoordinator::StopServers, nb::arg("grace_seconds"),
           nb::arg("timeout_seconds"))
      .def("close", &PyCoordinator::Close);
}

}  // namespace ps::bindings
