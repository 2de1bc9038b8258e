#pragma once

#include <Python.h>
#include <unistd.h>

namespace ps::bindings {

// Lets other Python threads run while this one works in C++.
//
// CPython up to 3.13 ends a thread that asks for the GIL while the interpreter is ending by
// pthread_exit(), whose unwinding would meet destructors that must not throw and abort the process.
// Such a thread sleeps here for the moment that is left, as CPython 3.14 has it.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      while (true) ::pause();
    }
  }
  GilRelease(const GilRelease&) = delete;

 private:
  PyThreadState* const state_;
};

}  // namespace ps::bindings
