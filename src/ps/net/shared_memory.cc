#include "ps/net/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ps::net {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// Room for one descriptor, aligned as cmsg(3) wants it.
union DescriptorRoom {
  cmsghdr head;
  char bytes[CMSG_SPACE(sizeof(int))];
};

}  // namespace

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

Result<SharedMemory> SharedMemory::Create(std::size_t bytes) {
  Fd descriptor(memfd_create("pyspark_ps", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!descriptor.valid() || ftruncate(descriptor.get(), static_cast<off_t>(bytes)) != 0 ||
      fcntl(descriptor.get(), F_ADD_SEALS, kSeals) != 0) {
    return ResourceExhausted("no memory to share: " + ErrnoText(errno));
  }
  return MapWhole(std::move(descriptor), bytes);
}

Result<SharedMemory> SharedMemory::Map(Fd descriptor, std::size_t bytes_max) {
  struct stat info {};
  int seals = fcntl(descriptor.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(descriptor.get(), &info) != 0) {
    return DataCorruption("the peer's shared memory could become shorter");
  }
  PS_ASSIGN_OR_RETURN(
      SharedMemory memory,
      MapWhole(std::move(descriptor), std::min(static_cast<std::size_t>(info.st_size), bytes_max)));
  memory.CloseDescriptor();
  return memory;
}

Result<SharedMemory> SharedMemory::MapWhole(Fd descriptor, std::size_t bytes) {
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.get(), 0);
  if (mapped == MAP_FAILED) return ResourceExhausted("cannot map memory: " + ErrnoText(errno));
  (void)madvise(mapped, bytes, MADV_DONTFORK);
  SharedMemory memory;
  memory.bytes_ = {static_cast<std::byte*>(mapped), bytes};
  memory.descriptor_ = std::move(descriptor);
  return memory;
}

bool SendWithDescriptor(int socket, std::span<const std::byte> bytes, int descriptor) {
  DescriptorRoom room{};
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = room.bytes;
  message.msg_controllen = sizeof(room.bytes);
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(descriptor));
  std::memcpy(CMSG_DATA(head), &descriptor, sizeof(descriptor));
  ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent >= 0 && static_cast<std::size_t>(sent) == bytes.size();
}

std::optional<Fd> PeekDescriptor(int socket) {
  DescriptorRoom room{};
  char byte;
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = room.bytes;
  message.msg_controllen = sizeof(room.bytes);
  if (recvmsg(socket, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0) return {};
  const cmsghdr* head = CMSG_FIRSTHDR(&message);
  if (head == nullptr || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS ||
      head->cmsg_len != CMSG_LEN(sizeof(int))) {
    return {};
  }
  int descriptor;
  std::memcpy(&descriptor, CMSG_DATA(head), sizeof(descriptor));
  return Fd(descriptor);
}

}  // namespace ps::net
