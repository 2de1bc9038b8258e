#include "ps/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>

namespace ps {
namespace {

struct LevelName {
  LogLevel level;
  std::string_view option;
  std::string_view word;  // of Python's logging
};
constexpr std::array<LevelName, 5> kLevels = {{{LogLevel::kDebug, "debug", "DEBUG"},
                                               {LogLevel::kInfo, "info", "INFO"},
                                               {LogLevel::kWarning, "warning", "WARNING"},
                                               {LogLevel::kError, "error", "ERROR"},
                                               {LogLevel::kOff, "off", ""}}};

bool IsPlain(std::string_view value) {
  constexpr std::string_view kMarks = ".:/_+-";
  return !value.empty() && std::all_of(value.begin(), value.end(), [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

std::string Quoted(const std::string& value) {
  if (IsPlain(value)) return value;
  return nlohmann::json(value).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Result<LogLevel> ParseLogLevel(std::string_view name) {
  for (const LevelName& known : kLevels) {
    if (known.option == name) return known.level;
  }
  return Status(StatusCode::kConfiguration,
                "log_level '" + std::string(name) +
                    "': allowed are 'debug', 'info', 'warning', 'error', 'off'");
}

Log::Sink Log::StandardError() {
  return [](const std::string& line) {
    // One write for a line: those of other threads and processes do not get between.
    std::string text = line + '\n';
    std::string_view rest = text;
    while (!rest.empty()) {
      const ssize_t written = ::write(STDERR_FILENO, rest.data(), rest.size());
      if (written < 0 && errno != EINTR) return;  // nobody reads any more
      if (written > 0) rest.remove_prefix(static_cast<std::size_t>(written));
    }
  };
}

Log::Log(std::string name, LogLevel level, const Clock* clock, Sink sink)
    : name_(std::move(name)),
      level_(level),
      clock_(clock),
      sink_(std::move(sink)),
      second_began_(clock->Now()) {}

void Log::Write(LogLevel level, std::string_view event, std::initializer_list<Field> fields) {
  if (!enabled(level)) return;
  int dropped = 0;
  if (!Admit(&dropped)) return;
  std::string line(kLevels[static_cast<std::size_t>(level)].word);
  line.append(" server=").append(name_).append(" event=").append(event);
  for (const auto& [name, value] : fields) {
    line.append(1, ' ').append(name).append(1, '=').append(Quoted(value));
  }
  if (dropped > 0) line.append(" lines_dropped=").append(std::to_string(dropped));
  sink_(line);
}

bool Log::Admit(int* dropped) {
  std::lock_guard lock(mutex_);
  const SteadyTime now = clock_->Now();
  if (now - second_began_ >= std::chrono::seconds(1)) {
    second_began_ = now;
    lines_in_second_ = 0;
  }
  if (lines_in_second_ == kLinesPerSecondMax) {
    ++dropped_;
    return false;
  }
  ++lines_in_second_;
  *dropped = std::exchange(dropped_, 0);
  return true;
}

}  // namespace ps
