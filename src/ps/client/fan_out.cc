#include "ps/client/fan_out.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "ps/base/spin_wait.h"
#include "ps/net/socket.h"

namespace ps::client {
namespace {

using std::chrono::milliseconds;

// The two directions of one exchange.
class Conversation {
 public:
  Conversation(Exchange* exchange, const FanOutOptions& options)
      : exchange_(exchange),
        connection_(exchange->link->connection.get()),
        request_id_(connection_->NextRequestId()),
        writer_(exchange->request, request_id_, connection_, options.compression,
                &exchange->link->write_buffers),
        reader_(exchange->request, request_id_, connection_, options.reply_bytes_max,
                &exchange->link->read_buffers) {}

  bool is_over() const { return is_over_; }
  int fd() const { return connection_->fd(); }
  short events() const { return writer_.is_done() || is_held() ? POLLIN : (POLLIN | POLLOUT); }
  // Its last frame waits for LetFinish.
  bool is_held() const { return !is_over_ && !may_finish_ && writer_.is_at_last(); }
  // The writer's word that gradients are not finite; of those that it has not come to, when `ahead`
  // or when it never will.
  Status Check(bool ahead) {
    if (exchange_->failure.code() == StatusCode::kInvalidArgument) return exchange_->failure;
    return ahead || is_over_ ? CheckFrames(exchange_->request, &exchange_->link->write_buffers)
                             : Status::Ok();
  }
  bool is_checked() const { return exchange_->request->is_checked(); }
  void LetFinish() { may_finish_ = true; }

  void Write() {
    Status status = writer_.WriteSome(may_finish_);
    if (!status.ok()) {
      // The server may have said why before it closed.
      if (Status read = reader_.ReadSome(); read.ok() && reader_.is_done()) return Succeed();
      return Fail(std::move(status));
    }
    EndWhenDone();
  }

  void Read() {
    if (reader_.is_done()) {
      if (!writer_.is_done()) Write();
      return;
    }
    Status status = reader_.ReadSome();
    if (!status.ok()) return Fail(std::move(status));
    EndWhenDone();
  }

  void Fail(Status status) {
    exchange_->failure = std::move(status);
    is_over_ = true;
  }

  std::string Waiting() const {
    return writer_.is_done() ? "has not answered" : "has not taken the whole request";
  }

 private:
  void EndWhenDone() {
    if (writer_.is_done() && reader_.is_done()) Succeed();
  }
  void Succeed() {
    exchange_->request->is_done = true;
    // Half a request cannot be followed by another.
    if (!writer_.is_done()) exchange_->link->connection.reset();
    is_over_ = true;
  }

  Exchange* exchange_;
  net::ClientConnection* connection_;
  std::uint64_t request_id_;
  FrameWriter writer_;
  ReplyReader reader_;
  bool may_finish_ = false;
  bool is_over_ = false;
};

void FailAll(std::deque<Conversation>* conversations, StatusCode code, const std::string& why) {
  for (Conversation& conversation : *conversations) {
    if (conversation.is_over()) continue;
    conversation.Fail(Status(
        code, code == StatusCode::kTimeout ? conversation.Waiting() + " within " + why : why));
  }
}

// Lets last frames go once all gradients have been looked at: ahead of their writers, as soon as a
// last frame waits for them, so that no server waits for the slowest. Not ok: some are not finite.
Status CheckAll(std::deque<Conversation>* conversations, bool* may_finish) {
  if (*may_finish) return Status::Ok();
  const bool is_any_held = std::any_of(conversations->begin(), conversations->end(),
                                       [](const Conversation& c) { return c.is_held(); });
  bool is_checked = true;
  for (Conversation& conversation : *conversations) {
    PS_RETURN_IF_ERROR(conversation.Check(is_any_held));
    is_checked &= conversation.is_checked();
  }
  if (!is_checked) return Status::Ok();
  *may_finish = true;
  for (Conversation& conversation : *conversations) {
    conversation.LetFinish();
    if (!conversation.is_over()) conversation.Write();
  }
  return Status::Ok();
}

// The polled sockets and whose they are; rebuilt for each wait.
struct PollSet {
  std::vector<pollfd> fds;
  std::vector<Conversation*> owners;

  void Collect(std::deque<Conversation>* conversations) {
    fds.clear();
    owners.clear();
    for (Conversation& conversation : *conversations) {
      if (conversation.is_over()) continue;
      fds.push_back({conversation.fd(), conversation.events(), 0});
      owners.push_back(&conversation);
    }
  }
  // As poll(2).
  int Wait(int timeout_ms) {
    thread_local SpinWait spin;  // an answer is often nearer than the next thread
    int ready = 0;
    if (spin.Until([&] { return (ready = ::poll(fds.data(), fds.size(), 0)) != 0; })) return ready;
    return ::poll(fds.data(), fds.size(), timeout_ms);
  }
  void Serve() {
    for (std::size_t i = 0; i < fds.size(); ++i) {
      if ((fds[i].revents & POLLOUT) != 0) owners[i]->Write();
      if (!owners[i]->is_over() &&
          (fds[i].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL)) != 0) {
        owners[i]->Read();
      }
    }
  }
};

}  // namespace

void FanOut(std::span<Exchange> exchanges, const FanOutOptions& options) {
  std::deque<Conversation> conversations;
  for (Exchange& exchange : exchanges) {
    PlaceSharedRows(exchange.request, exchange.link->connection->shared_memory().size());
    conversations.emplace_back(&exchange, options);
  }
  bool may_finish = false;
  for (Conversation& conversation : conversations) conversation.Write();

  PollSet polled;
  SteadyTime started = Now();
  SteadyTime interrupt_due = started + net::kInterruptInterval;
  while (true) {
    if (Status status = CheckAll(&conversations, &may_finish); !status.ok()) {
      return FailAll(&conversations, status.code(), status.message());
    }
    polled.Collect(&conversations);
    if (polled.fds.empty()) return;
    SteadyTime now = Now();
    if (now >= options.deadline) {
      double seconds = std::chrono::duration<double>(now - started).count();
      return FailAll(&conversations, StatusCode::kTimeout,
                     "what was left of the call's deadline (" + std::to_string(seconds) + " s)");
    }
    SteadyTime until = options.deadline;
    if (options.is_interrupted) {
      if (now >= interrupt_due) {
        if (options.is_interrupted()) {
          return FailAll(&conversations, StatusCode::kClosed, "the call was interrupted");
        }
        interrupt_due = now + net::kInterruptInterval;
      }
      until = std::min(until, interrupt_due);
    }
    auto wait = std::chrono::ceil<milliseconds>(until - now).count();
    int ready = polled.Wait(static_cast<int>(std::min<long>(wait, 60'000)));
    if (ready < 0) {
      interrupt_due = now;  // a signal
      if (errno == EINTR) continue;
      return FailAll(&conversations, StatusCode::kConnection,
                     std::string("poll: ") + std::strerror(errno));
    }
    polled.Serve();
  }
}

}  // namespace ps::client
