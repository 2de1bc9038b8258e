#pragma once

#include <functional>
#include <initializer_list>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "ps/base/clock.h"
#include "ps/base/status.h"

namespace ps {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// "debug", "info", "warning", "error" or "off".
Result<LogLevel> ParseLogLevel(std::string_view name);

// The log of one server, or of the coordinator: lines on standard error such as
//   WARNING server=2 event=request_refused request=push id=17 why="..."
// The first word is the level as Python's logging spells it; whoever started the process takes the
// line up by it. Values that hold more than letters, digits and . : / _ + - stand in quotes, as
// JSON strings do, so that a line is a line whatever a peer sent. At most kLinesPerSecondMax lines
// a second are written; the next one then tells how many were dropped. Thread-safe.
class Log {
 public:
  static constexpr int kLinesPerSecondMax = 50;
  using Field = std::pair<std::string_view, std::string>;
  using Sink = std::function<void(const std::string& line)>;

  static Sink StandardError();

  // name: the server's id, or "coordinator".
  Log(std::string name, LogLevel level, const Clock* clock, Sink sink = StandardError());
  Log(const Log&) = delete;

  bool enabled(LogLevel level) const { return level >= level_ && level != LogLevel::kOff; }
  void Write(LogLevel level, std::string_view event, std::initializer_list<Field> fields);

 private:
  // False: this line is one too many. *dropped: those before it that were.
  bool Admit(int* dropped);

  const std::string name_;
  const LogLevel level_;
  const Clock* const clock_;
  const Sink sink_;
  std::mutex mutex_;
  SteadyTime second_began_;
  int lines_in_second_ = 0;
  int dropped_ = 0;
};

}  // namespace ps
