// Clients of a running cluster, as bench/curves.py asks for them in one JSON document on standard
// input:
//
//   {"client": {...}, "secret": "<hex>", "table": 0, "dim": 16, "rows": 1000000,
//    "batch": 16384, "zipf": 0, "clients": 1, "op": "pull" | "push" | "fill",
//    "seconds": 2, "rate": 0}
//
// `client` is what the Python client gives the native one. Each client is a thread with connections
// of its own. rate 0: closed loop, the next request follows the last. rate > 0: open loop, `rate`
// requests per second over all clients arrive by a Poisson process whoever is busy, and a request's
// time runs from when it was meant to start, so that waiting in line is not hidden.
//
// Prints one JSON document: requests, rows_per_second, requests_per_second, p50_us, p99_us,
// p999_us.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/statistics.h"
#include "bench/zipf.h"
#include "ps/client/client.h"

namespace {

using namespace ps;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kBatchesKept = 16;  // drawn before the clock runs

void Check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "load: %s\n", status.ToString().c_str());
  std::exit(1);
}

struct Work {
  TableId table;
  std::size_t dim;
  std::uint64_t rows;
  std::size_t batch;
  double zipf;
  int clients;
  std::string op;
  double seconds;
  double rate;
};

Work ParseWork(const nlohmann::json& json) {
  return {json.at("table"),   json.at("dim"), json.at("rows"),    json.at("batch"), json.at("zipf"),
          json.at("clients"), json.at("op"),  json.at("seconds"), json.at("rate")};
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

client::ClientOptions ParseClient(const nlohmann::json& json, const std::string& secret_hex) {
  client::ClientOptions options;
  for (const auto& server : json.at("servers")) {
    options.servers.push_back({server.at("server_id").get<ServerId>(),
                               {server.at("host").get<std::string>(), server.at("port").get<int>(),
                                server.value("unix_path", "")},
                               server.value("incarnation", std::uint64_t{0})});
  }
  options.secret = FromHex(secret_hex);
  options.transport = *net::ParseTransport(json.value("transport", "auto"));
  options.compression = wire::Compression::kNone;
  return options;
}

class LoadClient {
 public:
  LoadClient(const client::ClientOptions& options, const Work& work, int number)
      : work_(work), random_(static_cast<std::uint64_t>(number) + 1) {
    auto connected = client::Client::Connect(options);
    Check(connected.status());
    client_ = std::move(connected).value();
    values_.assign(work.batch * work.dim, 1e-3f);
    const bench::Zipf rank(static_cast<double>(work.rows), work.zipf > 0 ? work.zipf : 1.05);
    for (std::size_t b = 0; b < kBatchesKept; ++b) {
      std::vector<Key>& keys = batches_.emplace_back(work.batch);
      for (Key& key : keys) key = work.zipf > 0 ? rank(random_) : random_() % work.rows;
    }
  }

  // Makes the rows of every `clients`-th batch.
  void Fill(int number) {
    std::vector<Key> keys;
    for (std::uint64_t first = static_cast<std::uint64_t>(number) * work_.batch; first < work_.rows;
         first += static_cast<std::uint64_t>(work_.clients) * work_.batch) {
      keys.clear();
      for (std::uint64_t key = first; key < std::min(work_.rows, first + work_.batch); ++key) {
        keys.push_back(key);
      }
      Pull(keys);
      ++requests_;
    }
  }

  void ClosedLoop(Clock::time_point end) {
    for (auto start = Clock::now(); start < end;) {
      Request();
      auto now = Clock::now();
      Count(now - start);
      start = now;
    }
  }

  void OpenLoop(Clock::time_point begin, Clock::time_point end) {
    std::exponential_distribution<double> gap(work_.rate / work_.clients);
    for (auto meant = begin;;) {
      meant +=
          std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(gap(random_)));
      if (meant >= end) return;
      std::this_thread::sleep_until(meant);
      Request();
      Count(Clock::now() - meant);
    }
  }

  std::size_t requests() const { return requests_; }
  const std::vector<double>& microseconds() const { return microseconds_; }

 private:
  void Request() {
    const std::vector<Key>& keys = batches_[requests_ % kBatchesKept];
    if (work_.op == "push") {
      client::RowsPush push{work_.table, keys, values_.data()};
      Check(client_->Push({&push, 1}, {}, {}));
    } else {
      Pull(keys);
    }
  }
  void Pull(const std::vector<Key>& keys) {
    client::RowsPull pull{work_.table, keys, values_.data(), true};
    Check(client_->Pull({&pull, 1}, {}));
  }
  void Count(Clock::duration took) {
    ++requests_;
    microseconds_.push_back(std::chrono::duration<double, std::micro>(took).count());
  }

  const Work& work_;
  std::mt19937_64 random_;
  std::unique_ptr<client::Client> client_;
  std::vector<std::vector<Key>> batches_;
  std::vector<float> values_;
  std::vector<double> microseconds_;
  std::size_t requests_ = 0;
};

nlohmann::json Run(const client::ClientOptions& options, const Work& work) {
  std::vector<std::unique_ptr<LoadClient>> clients;
  for (int i = 0; i < work.clients; ++i) {
    clients.push_back(std::make_unique<LoadClient>(options, work, i));
  }
  const auto begin = Clock::now();
  const auto end = begin + std::chrono::duration_cast<Clock::duration>(
                               std::chrono::duration<double>(work.seconds));
  std::vector<std::thread> threads;
  for (int i = 0; i < work.clients; ++i) {
    threads.emplace_back([&, i] {
      if (work.op == "fill") {
        clients[i]->Fill(i);
      } else if (work.rate > 0) {
        clients[i]->OpenLoop(begin, end);
      } else {
        clients[i]->ClosedLoop(end);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  double requests = 0;
  std::vector<double> microseconds;
  for (const auto& client : clients) {
    requests += static_cast<double>(client->requests());
    const std::vector<double>& some = client->microseconds();
    microseconds.insert(microseconds.end(), some.begin(), some.end());
  }
  nlohmann::json found = {
      {"requests", requests},
      {"requests_per_second", requests / seconds},
      {"rows_per_second", requests * static_cast<double>(work.batch) / seconds}};
  if (!microseconds.empty()) {
    found["p50_us"] = bench::Quantile(microseconds, 0.5);
    found["p99_us"] = bench::Quantile(microseconds, 0.99);
    found["p999_us"] = bench::Quantile(microseconds, 0.999);
  }
  return found;
}

}  // namespace

int main() {
  const std::string text((std::istreambuf_iterator<char>(std::cin)), {});
  try {
    const auto json = nlohmann::json::parse(text);
    const Work work = ParseWork(json);
    const auto options = ParseClient(json.at("client"), json.at("secret").get<std::string>());
    std::printf("%s\n", Run(options, work).dump().c_str());
  } catch (const nlohmann::json::exception& error) {
    std::fprintf(stderr, "load: %s\n", error.what());
    return 2;
  }
  return 0;
}
