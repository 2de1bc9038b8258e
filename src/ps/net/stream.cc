#include "ps/net/stream.h"

namespace ps::net {
namespace {

class PlainStream final : public Stream {
 public:
  explicit PlainStream(int fd) : fd_(fd) {}

  Result<Handshake> ShakeHands() override { return Handshake::kDone; }
  Result<std::size_t> WriteSome(std::span<const iovec> parts) override {
    return WriteSomeTo(fd_, parts);
  }
  Result<std::size_t> ReadSome(std::span<std::byte> out) override { return ReadSomeFrom(fd_, out); }
  bool may_have_more() const override { return false; }
  bool is_plain() const override { return true; }

 private:
  const int fd_;
};

}  // namespace

std::unique_ptr<Stream> MakePlainStream(int fd) { return std::make_unique<PlainStream>(fd); }

}  // namespace ps::net
