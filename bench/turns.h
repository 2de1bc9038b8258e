#pragma once

// Several ways to do the same work, taken in turns, in processor time.
//
// The time is that of the slower of two threads, so that other work on the machine disturbs little;
// the memory it shares with others remains.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <barrier>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "bench/statistics.h"

namespace ps::bench {

inline double ThreadSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

template <typename Work>
double Seconds(Work&& work) {
  const double start = ThreadSeconds();
  work();
  return ThreadSeconds() - start;
}

// Two threads, each with its shard, started and ended together; or one that serves both.
class Crew {
 public:
  explicit Crew(int threads) : threads_(threads), start_(2), end_(2) {
    if (threads_ == 2) helper_ = std::thread([this] { Help(); });
  }
  ~Crew() {
    if (threads_ == 1) return;
    work_ = nullptr;
    start_.arrive_and_wait();
    helper_.join();
  }

  // Seconds that work(0) and work(1) take, the slower one when each has a thread.
  double Run(const std::function<void(int)>& work) {
    if (threads_ == 1) {
      return Seconds([&] {
        work(0);
        work(1);
      });
    }
    work_ = &work;
    start_.arrive_and_wait();
    const double own = Seconds([&] { work(0); });
    end_.arrive_and_wait();
    return std::max(own, helper_seconds_);
  }

 private:
  void Help() {
    for (;;) {
      start_.arrive_and_wait();
      if (work_ == nullptr) return;
      helper_seconds_ = Seconds([&] { (*work_)(1); });
      end_.arrive_and_wait();
    }
  }

  const int threads_;
  std::barrier<> start_;
  std::barrier<> end_;
  const std::function<void(int)>* work_ = nullptr;
  double helper_seconds_ = 0;
  std::thread helper_;
};

// Times of several ways to do the same work, taken in turns.
class Turns {
 public:
  void Add(const char* name, double seconds, double rows) {
    for (Way& way : ways_) {
      if (way.name == name) {
        way.seconds_per_row.push_back(seconds / rows);
        return;
      }
    }
    ways_.push_back(Way{name, {seconds / rows}});
  }
  // The first way's figures against the others'.
  void Report(benchmark::State& state) const {
    for (const Way& way : ways_) {
      state.counters[way.name + "_M/s"] = 1e-6 / Median(way.seconds_per_row);
    }
    for (std::size_t w = 1; w < ways_.size(); ++w) {
      state.counters["vs_" + ways_[w].name] = Median(RatiosTo(ways_[w].name));
    }
  }
  // The first way's speed against `way`'s, as a share or as a multiple.
  void ReportBar(const std::string& what, const char* way, const char* floor, const char* aim,
                 bool is_share) const {
    const std::vector<double> ratios = RatiosTo(way);
    char speed[48];
    std::snprintf(speed, sizeof(speed), ", %.1f M rows/s", 1e-6 / Median(ways_[0].seconds_per_row));
    Bar(what, (is_share ? Share(ratios) : Multiple(ratios)) + speed, floor, aim);
  }

 private:
  struct Way {
    std::string name;
    std::vector<double> seconds_per_row;
  };

  // Pair by pair, the time of `name` over that of the first way.
  std::vector<double> RatiosTo(const std::string& name) const {
    std::vector<double> ratios;
    for (const Way& way : ways_) {
      if (way.name != name) continue;
      for (std::size_t i = 0; i < way.seconds_per_row.size(); ++i) {
        ratios.push_back(way.seconds_per_row[i] / ways_[0].seconds_per_row[i]);
      }
    }
    return ratios;
  }

  std::vector<Way> ways_;
};

}  // namespace ps::bench
