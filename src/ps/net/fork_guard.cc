#include "ps/net/fork_guard.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mutex>
#include <vector>

namespace ps::net {
namespace {

// By number: the inode of the socket that had it when it was told, 0 = none. A number may belong to
// something else by now; the inode tells. Lives for ever: forks may come at the very end.
struct Table {
  std::mutex mutex;
  std::vector<ino_t> inodes;
};

Table& TheTable() {
  static Table* table = new Table;
  return *table;
}

ino_t SocketInode(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode) ? info.st_ino : 0;
}

// In the child; system calls only.
void LetGo(const std::vector<ino_t>& inodes) {
  int nowhere = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  for (std::size_t number = 0; number < inodes.size(); ++number) {
    int fd = static_cast<int>(number);
    if (inodes[number] == 0 || SocketInode(fd) != inodes[number]) continue;
    // Without a number left for `nowhere` this fails, and the child keeps the socket.
    dup3(nowhere, fd, O_CLOEXEC);
  }
  if (nowhere >= 0) close(nowhere);
}

void BeforeFork() { TheTable().mutex.lock(); }
void AfterForkInParent() { TheTable().mutex.unlock(); }
void AfterForkInChild() {
  LetGo(TheTable().inodes);
  TheTable().inodes.clear();
  TheTable().mutex.unlock();
}

}  // namespace

void KeepFromForkedChildren(int fd) {
  static const int registered = pthread_atfork(BeforeFork, AfterForkInParent, AfterForkInChild);
  (void)registered;
  Table& table = TheTable();
  ino_t inode = SocketInode(fd);
  if (fd < 0 || inode == 0) return;
  std::lock_guard lock(table.mutex);
  if (table.inodes.size() <= static_cast<std::size_t>(fd)) table.inodes.resize(fd + 1, 0);
  table.inodes[fd] = inode;
}

}  // namespace ps::net
