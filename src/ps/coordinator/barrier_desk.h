#pragma once

#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <cstdint>
#include <string>
#include <unordered_map>

#include "ps/coordinator/barriers.h"
#include "ps/net/listener.h"
#include "ps/sharding/json.h"

namespace ps::coordinator {

// Barriers at the sockets: requests in, answers out when their time has come. The connection that a
// member waits on is its life line. All calls on the io thread.
//   {"op":"create_barrier","name","num_workers"}                          -> {}
//   {"op":"enter_barrier","name","member","attempt","timeout_seconds"}    -> {} when released
//   {"op":"wait_barrier","name","timeout_seconds"}                        -> {} when all are in
//   {"op":"release_barrier","name"}                                       -> {}
class BarrierDesk {
 public:
  explicit BarrierDesk(asio::io_context* context) : timer_(*context) {}

  static bool Knows(const std::string& op);
  void Serve(const net::ConnectionPtr& connection, std::uint64_t request_id, const std::string& op,
             const sharding::Json& json);
  void ConnectionEnded(std::uint64_t connection_id);
  // Ends all waits, and refuses what comes later.
  void Close(const Status& why);

 private:
  Status Begin(const std::string& op, const sharding::Json& json, Barriers::Waiter waiter,
               bool* is_answered_later);
  void SendAnswers();
  void WaitForNextDue();

  Barriers barriers_;
  asio::steady_timer timer_;
  std::unordered_map<std::uint64_t, net::ConnectionPtr> waiting_;  // by id; until they end
};

}  // namespace ps::coordinator
