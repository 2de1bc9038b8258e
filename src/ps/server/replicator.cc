#include "ps/server/replicator.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "ps/net/client_connection.h"
#include "ps/wire/messages.h"

namespace ps::server {
namespace {

// Changes sent and not answered; the last one may pass the limit of bytes.
constexpr std::size_t kUnansweredChangesMax = 64;
constexpr std::size_t kUnansweredBytesMax = 16u << 20;
// Frames are cut at about this size; a single chunk with its state may be larger (4 MiB).
constexpr std::size_t kFrameBytesAimed = 1u << 20;
constexpr Duration kConnectTimeout = std::chrono::seconds(5);
// A server that takes longer is asked again over another connection.
constexpr Duration kAnswerTimeout = std::chrono::seconds(30);
constexpr Duration kPauseMin = std::chrono::milliseconds(10);
constexpr Duration kPauseMax = std::chrono::milliseconds(500);

std::size_t BytesOf(const Change& change) {
  std::size_t bytes = 0;
  for (const auto& chunk : change.chunks) bytes += chunk.size();
  return bytes;
}

}  // namespace

// The connection to the next server. The sending thread's.
class Replicator::Line {
 public:
  bool is_open() const { return connection_ != nullptr; }
  int fd() const { return connection_->fd(); }
  bool has_buffered() const { return connection_->has_buffered(); }
  std::size_t unanswered() const { return unanswered_; }
  SteadyTime answer_due() const { return heard_ + kAnswerTimeout; }
  void Close() {
    connection_.reset();
    unanswered_ = 0;
  }

  Status Open(const net::ConnectOptions& options) {
    PS_ASSIGN_OR_RETURN(connection_,
                        net::ClientConnection::Connect(options, Now() + kConnectTimeout));
    return Status::Ok();
  }

  // `id`: what the answer will carry.
  Status Send(const ServingDefinition& definition, const Change& change, std::uint64_t* id) {
    wire::SectionHead of;
    of.kind = wire::SectionKind::kReplicaOf;
    of.id = definition.self;
    of.chunk = change.home;
    of.version = definition.cluster.version;
    std::byte head[wire::kSectionHeadBytes];
    wire::EncodeSectionHead(of, head);

    wire::FrameHeader header;
    header.type = wire::MessageType::kReplicate;
    header.request_id = *id = connection_->NextRequestId();
    header.stream = change.stream;
    header.sequence = change.sequence;
    if (unanswered_++ == 0) heard_ = Now();
    std::vector<std::span<const std::byte>> parts{head};
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < change.chunks.size(); ++i) {
      parts.emplace_back(change.chunks[i]);
      bytes += change.chunks[i].size();
      const bool is_last = i + 1 == change.chunks.size();
      if (!is_last && bytes + change.chunks[i + 1].size() <= kFrameBytesAimed) continue;
      header.flags = is_last ? 0 : wire::kMore;
      PS_RETURN_IF_ERROR(connection_->SendFrame(header, parts, Now() + kAnswerTimeout));
      parts.clear();
      bytes = 0;
    }
    return Status::Ok();
  }

  // The next answer and what it answers; a change that goes further comes back later than one that
  // does not. Not ok: the line has failed, or the other server asks for another try.
  Status ReadAnswer(std::uint64_t* id, Status* result) {
    PS_ASSIGN_OR_RETURN(auto frame, connection_->ReadFrame(Now() + kAnswerTimeout));
    heard_ = Now();
    Status answer = frame.header.type == wire::MessageType::kError
                        ? wire::DecodeError(frame.payload)
                        : Status::Ok();
    is_fenced_ = answer.code() == StatusCode::kClosed;
    if (is_fenced_ || answer.code() == StatusCode::kConnection) return answer;
    --unanswered_;
    *id = frame.header.request_id;
    *result = std::move(answer);
    return Status::Ok();
  }
  // The other server has said that this one was declared lost.
  bool is_fenced() const { return is_fenced_; }

 private:
  std::unique_ptr<net::ClientConnection> connection_;
  std::size_t unanswered_ = 0;
  SteadyTime heard_;
  bool is_fenced_ = false;
};

Replicator::Replicator(Core* core)
    : core_(core), wake_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Replicator::~Replicator() {
  Stop();
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

void Replicator::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    generation_.fetch_add(1);
  }
  Wake();
  if (thread_.joinable()) thread_.join();
  std::lock_guard lock(mutex_);
  for (const ChangePtr& change : waiting_) change->done = nullptr;
  waiting_.clear();
}

Status Replicator::Order(const DefinitionPtr& planned, const ChangePtr& change,
                         const std::function<void()>& post) {
  std::lock_guard lock(mutex_);
  if (core_->definition()->cluster.weight_copies.lost != planned->cluster.weight_copies.lost) {
    return ConnectionError(core_->Name() + " has just heard of the loss of a server; try again");
  }
  if (change != nullptr && !stopping_) {
    waiting_.push_back(change);
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }
  post();
  return Status::Ok();
}

void Replicator::Complete(const ChangePtr& change, Change::Done done) {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  change->done = std::move(done);
  change->is_complete = true;
  Wake();
}

void Replicator::Publish(DefinitionPtr next, Peers peers) {
  std::lock_guard lock(mutex_);
  DefinitionPtr now = core_->definition();
  core_->Publish(next);
  if (!peers.empty()) TakePeers(std::move(peers));
  const auto becomes_owner = [now, next](ServerId home) {
    return next->Owns(home) && !now->Owns(home);
  };
  const bool has_lost = now != nullptr && now->cluster.weight_copies != next->cluster.weight_copies;
  if (!has_lost) return;
  for (auto& shard : core_->shards) {
    shard->Post([&shard = *shard, next, becomes_owner] {
      if (!shard.has_weights()) return;
      shard.weights().StartEpoch(
          [&](store::ChunkId id) { return becomes_owner(next->HomeOfChunk(id.tensor, id.chunk)); });
    });
  }
  generation_.fetch_add(1);
  Wake();
}

void Replicator::LearnPeers(Peers peers) {
  std::lock_guard lock(mutex_);
  TakePeers(std::move(peers));
}

void Replicator::TakePeers(Peers peers) {
  if (peers == peers_) return;
  peers_ = std::move(peers);
  generation_.fetch_add(1);
  Wake();
}

// Takes those off the head of the order that nobody else needs to know; when none is on its way.
Replicator::Batch Replicator::TakeLocal(const ServingDefinition& definition) {
  Batch local;
  while (!waiting_.empty() && waiting_.front()->is_complete &&
         !definition.PassesOn(waiting_.front()->home)) {
    local.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return local;
}

// What may be sent behind the changes that are on their way.
Replicator::Batch Replicator::Sendable(const ServingDefinition& definition) const {
  Batch batch;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < waiting_.size() && i < kUnansweredChangesMax; ++i) {
    const ChangePtr& change = waiting_[i];
    if (!change->is_complete || !definition.PassesOn(change->home)) break;
    if (bytes > kUnansweredBytesMax) break;
    bytes += BytesOf(*change);
    if (change->request_id == 0) batch.push_back(change);
  }
  return batch;
}

net::ConnectOptions Replicator::NextServer(const ServingDefinition& definition, ServerId home,
                                           std::uint64_t generation) {
  const ServerId next = *definition.cluster.weight_copies.NextAfter(definition.self, home);
  net::ConnectOptions connect;
  connect.endpoint = peers_[next].endpoint;
  connect.secret = core_->options.secret;
  connect.tls_fingerprint = net::FingerprintOf(core_->options.tls);
  connect.peer_silence_ms = net::PeerSilenceMs(core_->options.driver_silence_seconds);
  connect.expected = {next, peers_[next].incarnation};
  connect.is_interrupted = [this, generation] { return generation_.load() != generation; };
  return connect;
}

void Replicator::Run() {
  pthread_setname_np(pthread_self(), "ps-copies");
  Line line;
  Duration pause = kPauseMin;
  std::uint64_t generation = 0;
  while (true) {
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    if (generation_.load() != generation) {
      line.Close();
      generation = generation_.load();
    }
    if (!line.is_open()) {
      for (const ChangePtr& change : waiting_) change->request_id = 0;
    }
    DefinitionPtr definition = core_->definition();
    Batch local = line.unanswered() == 0 ? TakeLocal(*definition) : Batch();
    Batch batch = Sendable(*definition);
    net::ConnectOptions next;
    if (!batch.empty()) next = NextServer(*definition, batch.front()->home, generation);
    lock.unlock();

    for (const ChangePtr& change : local) std::exchange(change->done, nullptr)(Status::Ok());
    Status status;
    if (!batch.empty() && !line.is_open()) status = line.Open(next);
    for (const ChangePtr& change : batch) {
      if (status.ok()) status = line.Send(*definition, *change, &change->request_id);
    }
    if (status.ok() && batch.empty() && local.empty()) status = Wait(&line);
    if (status.ok()) {
      if (batch.empty()) pause = kPauseMin;
      continue;
    }
    if (line.is_fenced()) core_->end("another server says: " + status.message(), Duration::zero());
    core_->log.Write(LogLevel::kWarning, "copy_failed", {{"why", status.message()}});
    line.Close();
    // When the cluster ends nobody waits for a server that has gone already.
    if (core_->closing.load(std::memory_order_acquire)) GiveUp(status);
    WaitForWake(pause, -1);
    pause = std::min(2 * pause, kPauseMax);
  }
}

// Until there is something to send, or an answer, which is settled.
Status Replicator::Wait(Line* line) {
  const bool is_expecting = line->unanswered() > 0;
  bool is_readable = is_expecting && line->has_buffered();
  if (!is_readable) {
    const Duration longest = is_expecting ? line->answer_due() - Now() : kAnswerTimeout;
    is_readable = WaitForWake(longest, is_expecting ? line->fd() : -1);
  }
  if (!is_readable) {
    if (!is_expecting || Now() < line->answer_due()) return Status::Ok();
    return TimeoutError("no answer to a copy of a change");
  }
  Status answer;
  std::uint64_t id = 0;
  PS_RETURN_IF_ERROR(line->ReadAnswer(&id, &answer));
  ChangePtr change;
  {
    std::lock_guard lock(mutex_);
    auto found = std::ranges::find_if(waiting_,
                                      [id](const ChangePtr& one) { return one->request_id == id; });
    if (found == waiting_.end()) return DataCorruption("an answer to something else");
    change = std::move(*found);
    waiting_.erase(found);
  }
  std::exchange(change->done, nullptr)(answer);
  return Status::Ok();
}

void Replicator::GiveUp(const Status& why) {
  Batch given_up;
  {
    std::lock_guard lock(mutex_);
    while (!waiting_.empty() && waiting_.front()->is_complete) {
      given_up.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
  }
  for (const ChangePtr& change : given_up) std::exchange(change->done, nullptr)(why);
}

void Replicator::Wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] auto written = ::write(wake_fd_, &one, sizeof(one));
}

// Until Wake, or until `fd` (-1: none) has something to read, which is the answer.
bool Replicator::WaitForWake(Duration longest, int fd) {
  pollfd fds[2] = {{wake_fd_, POLLIN, 0}, {fd, POLLIN, 0}};  // poll passes over -1
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(longest).count();
  if (::poll(fds, 2, static_cast<int>(std::max<long>(ms, 0))) <= 0) return false;
  std::uint64_t wakes = 0;
  if (fds[0].revents != 0) {
    [[maybe_unused]] auto got = ::read(wake_fd_, &wakes, sizeof(wakes));
  }
  return fds[1].revents != 0;
}

}  // namespace ps::server
