#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include "ps/base/status.h"
#include "ps/net/socket.h"

namespace ps::net {

// Memory that both ends of a Unix socket see, so that what lies there need not go through the
// socket. The accepting side makes it; its descriptor travels with the welcome. Neither end can
// make it shorter. It takes memory where it has been touched. Forked children do not get it.
class SharedMemory {
 public:
  SharedMemory() = default;
  SharedMemory(SharedMemory&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})), descriptor_(std::move(other.descriptor_)) {}
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();

  static Result<SharedMemory> Create(std::size_t bytes);
  // The peer's, at most bytes_max of it. DataCorruption when it could become shorter.
  static Result<SharedMemory> Map(Fd descriptor, std::size_t bytes_max);

  std::span<std::byte> bytes() const { return bytes_; }
  int descriptor() const { return descriptor_.get(); }
  void CloseDescriptor() { descriptor_.Reset(); }  // the memory stays

 private:
  static Result<SharedMemory> MapWhole(Fd descriptor, std::size_t bytes);

  std::span<std::byte> bytes_;
  Fd descriptor_;
};

// Sends `bytes`, which there is room for, over a Unix socket with a descriptor. False when it does
// not take them whole.
bool SendWithDescriptor(int socket, std::span<const std::byte> bytes, int descriptor);

// The descriptor that comes with the next byte of a readable Unix socket, which stays there. Empty
// when there is none.
std::optional<Fd> PeekDescriptor(int socket);

}  // namespace ps::net
