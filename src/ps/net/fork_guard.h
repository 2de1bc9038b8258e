#pragma once

namespace ps::net {

// From now on a process that is forked from this one lets go of the socket at once. Without it a
// child that lives on (a worker pool, a daemon) would keep the connections of a parent that has
// died open, and nobody would notice the death. In the child the number `fd` stays taken, by a
// socket that is connected to nothing: closing it is harmless, using it fails.
//
// Nothing needs to be undone when the socket is closed. Thread-safe.
void KeepFromForkedChildren(int fd);

}  // namespace ps::net
