#include "ps/server/shard.h"

#include <pthread.h>

#include <string>

#include "ps/base/spin_wait.h"

namespace ps::server {

void Shard::Start() {
  work_.emplace(context_.get_executor());
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), ("ps-shard-" + std::to_string(index_)).c_str());
    SpinWait spin;
    while (!context_.stopped()) {
      if (!spin.Until([this] { return context_.poll() > 0; })) context_.run_one();
    }
  });
}

void Shard::StopAndJoin() {
  if (!thread_.joinable()) return;
  work_.reset();
  context_.stop();
  thread_.join();
}

std::size_t Shard::Drain() {
  context_.restart();
  std::size_t ran = context_.poll();
  context_.stop();
  return ran;
}

}  // namespace ps::server
