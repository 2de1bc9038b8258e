#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/limits.h"
#include "ps/base/status.h"

namespace ps::server {

// Which numbered requests this server has done, so that each takes effect once whatever is retried.
//
// A number (stream, sequence) is absent, in progress or done. Of each stream the ledger keeps a
// bitmap of the `window` sequences up to the highest it has seen; what lies below is done: a stream
// has at most `window` sequences in flight and a client does not go on past one that failed.
// Sequences may start anywhere and skip numbers (a server that has nothing to do in a batch gets
// none).
//
// When `streams_max` streams are known, a new one takes the place of the least recently used stream
// that has nothing in progress and has been idle for kStreamIdleMin (longer than any call retries);
// when there is none the request is refused. A stream given up is forgotten: its numbers could
// apply again.
//
// A stream that has ended refuses further numbers, so that an attempt that lost a race (a
// speculative task that is not killed yet) changes nothing. It keeps its name and gives back its
// bitmap; its place goes to a new stream like that of any idle one.
//
// Thread-safe; one mutex per request, not per key. About 300 bytes a stream, half when ended.
class PushLedger {
 public:
  // How it ended: the request's own status, and for control requests the answer's text.
  using Waiter = std::function<void(const Status& status, const std::string& answer)>;

  static constexpr Duration kStreamIdleMin = std::chrono::minutes(10);
  // Answers of done control requests that a stream remembers; an older duplicate gets "{}".
  static constexpr std::size_t kAnswersKeptMax = 8;

  explicit PushLedger(const Clock* clock, std::size_t window = limits::kLedgerWindow,
                      std::size_t streams_max = limits::kLedgerStreamsMax);

  enum class Decision {
    kRun,   // absent until now: the caller does it, then calls Commit or Abort
    kDone,  // done before; nothing to do
    kWait,  // in progress elsewhere: the waiter is called when it ends, from the thread that ends
            // it
  };
  struct Outcome {
    Decision decision = Decision::kRun;
    std::string answer;  // kDone: of a control request
  };
  // InvalidArgument for stream 0 and for a stream that has ended; ResourceExhausted when the
  // sequence would push one that is still in progress out of the window, or when there is no place
  // for a new stream.
  Result<Outcome> Begin(std::uint64_t stream, std::uint64_t sequence, Waiter waiter);

  // Ends a number that Begin answered with kRun: done, or forgotten, so that a retry can run. Those
  // who wait get the same answer.
  void Commit(std::uint64_t stream, std::uint64_t sequence, const std::string& answer = "");
  void Abort(std::uint64_t stream, std::uint64_t sequence, const Status& why);

  // Ends streams, also ones never seen here. What is in progress ends as usual.
  void End(std::span<const std::uint64_t> streams);

  std::size_t stream_count() const;

  // What a checkpoint keeps of a stream.
  struct Record {
    std::uint64_t stream = 0;
    std::uint64_t highest = 0;
    bool ended = false;
    std::vector<bool> done;  // by sequence % window; empty when ended
  };
  // All streams at this moment. What is in progress counts as done: some of it may be in rows that
  // were copied already, and nothing may be applied twice.
  std::vector<Record> Export() const;
  // Forgets everything but what is in progress, then knows `records`. Several of one stream add up:
  // a sequence is done that is done in any of them. A window of another size, or more streams than
  // there is room for, is DataCorruption; nothing is changed.
  Status Replace(std::span<const Record> records);

 private:
  struct InProgress {
    std::uint64_t sequence;
    std::vector<Waiter> waiters;
  };
  struct Stream {
    std::uint64_t highest = 0;
    std::vector<bool> done;  // bit sequence % window, of the last `window` sequences up to highest
    std::vector<InProgress> in_progress;
    std::vector<std::pair<std::uint64_t, std::string>> answers;
    bool ended = false;
    SteadyTime used;
    std::list<std::uint64_t>::iterator recency;
  };
  using Streams = std::unordered_map<std::uint64_t, Stream>;

  bool IsDone(const Stream& stream, std::uint64_t sequence) const;
  void Merge(const Record& record, Streams* into) const;
  Result<Stream*> FindOrAdd(std::uint64_t id, std::uint64_t sequence);
  bool MakeRoom();
  void Touch(Stream& stream);
  static void Release(Stream& stream);
  void Erase(Streams::iterator at);
  Status Slide(Stream& stream, std::uint64_t id, std::uint64_t sequence);
  std::vector<Waiter> Finish(std::uint64_t id, std::uint64_t sequence, bool done,
                             const std::string& answer);

  const Clock* const clock_;
  const std::size_t window_;
  const std::size_t streams_max_;
  mutable std::mutex mutex_;
  Streams streams_;
  std::list<std::uint64_t> recency_;  // least recently used first
};

}  // namespace ps::server
