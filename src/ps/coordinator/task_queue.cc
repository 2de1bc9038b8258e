#include "ps/coordinator/task_queue.h"

#include <pthread.h>

#include <utility>

namespace ps::coordinator {

void TaskQueue::Start() {
  thread_ = std::thread([this] { Run(); });
}

bool TaskQueue::Post(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  if (closed_ || tasks_.size() >= waiting_max_) return false;
  tasks_.push_back(std::move(task));
  changed_.notify_all();
  return true;
}

void TaskQueue::Close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void TaskQueue::Run() {
  pthread_setname_np(pthread_self(), "ps-coord-work");
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
      if (closed_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace ps::coordinator
