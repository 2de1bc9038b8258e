#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <string>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/sharding/json.h"

namespace ps::server {

// Work on checkpoints that outlives the request that asked for it. The driver starts a job and asks
// how it is; the process around the server (the host) takes jobs one after the other, reads or
// writes the storage, and says how each ended. What a job's task says is between those two.
//
// Control requests:
//   {"op":"checkpoint_start","job":"<name>","task":{...}} -> {}    the same name again: nothing
//   {"op":"checkpoint_status","job"} -> {"state":"waiting|running|done|failed|cancelled",
//      "progress":{...}, "result":{...} when done, "error":{"class","message"} when failed}
//   {"op":"checkpoint_cancel","job"} -> {}    the host is told; a job that has ended stays as it is
// Thread-safe.
class CheckpointJobs {
 public:
  static constexpr std::size_t kWaitingMax = 64;
  static constexpr std::size_t kEndedKeptMax = 256;
  static constexpr std::size_t kNameBytesMax = 256;

  struct Job {
    std::string name;
    std::string task;  // JSON
  };

  // The answer to one of the control requests above.
  Result<std::string> Serve(const std::string& op, const sharding::Json& request);

  // --- the host
  // The next job, waiting for it at most so long; none on time-out and after Close.
  std::optional<Job> Take(Duration timeout);
  // What the job has done so far (a JSON object); false when it was cancelled.
  bool Report(const std::string& name, const std::string& progress_json);
  void Finish(const std::string& name, const std::string& result_json);
  // `error_class`: of pyspark_ps.errors.
  void Fail(const std::string& name, const std::string& error_class, const std::string& message);

  // Lets whoever waits in Take go; no job is handed out any more.
  void Close();

 private:
  enum class State { kWaiting, kRunning, kDone, kFailed, kCancelled };
  struct Entry {
    Job job;
    State state = State::kWaiting;
    bool cancel = false;
    std::string progress = "{}";  // JSON, as is
    std::string outcome;          // the result, or the error
  };
  using Entries = std::list<Entry>;

  static const char* Name(State state);
  Status Start(const std::string& name, const sharding::Json& request);
  Entry* Find(const std::string& name);
  void End(const std::string& name, State state, std::string outcome);

  std::mutex mutex_;
  std::condition_variable changed_;
  Entries entries_;  // in the order of their start
  bool closed_ = false;
};

}  // namespace ps::server
