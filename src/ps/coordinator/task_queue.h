#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace ps::coordinator {

// A thread that runs tasks one after the other: what may wait for servers, away from the sockets.
class TaskQueue {
 public:
  explicit TaskQueue(std::size_t waiting_max) : waiting_max_(waiting_max) {}
  ~TaskQueue() { Close(); }
  TaskQueue(const TaskQueue&) = delete;

  void Start();
  // False when closed, or when waiting_max tasks wait already. Thread-safe.
  bool Post(std::function<void()> task);
  // Waits for the task under way; the others are dropped. Not from a task.
  void Close();

 private:
  void Run();

  const std::size_t waiting_max_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace ps::coordinator
