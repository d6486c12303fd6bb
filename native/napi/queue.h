// The in-order queue: one thread runs the commands one after the other, each on the pool.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../kernels/pool.h"

namespace lowrank {

class Queue {
 public:
  using Command = std::function<void(Pool&)>;
  // One op that ran, in milliseconds since the profile was started.
  struct Span {
    int op;
    double start, end;
  };

  explicit Queue(int threads);
  ~Queue() { stop(); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Enqueues a command. `op` names it in errors and profiles; −1 for commands that are not ops.
  void push(int op, Command command);
  // Ends the thread after the command that is running; the rest is dropped.
  void stop();

  // Commands are numbered from 1.
  uint64_t pushed() const { return pushed_; }
  uint64_t completed() const { return completed_.load(std::memory_order_acquire); }
  // Bytes of the pool's scratch memory.
  size_t workspace() const { return pool_.scratch_bytes(); }

  // The first error since the last call, or "". Called by commands.
  std::string take_error();

  void start_profile();
  // What ran since the start, and ends the profile.
  std::vector<Span> take_profile();

 private:
  struct Entry {
    int op;
    Command command;
  };
  void work();
  void run(Entry& entry);
  bool wait(std::vector<Entry>& batch);

  Pool pool_;
  uint64_t pushed_ = 0;
  std::atomic<uint64_t> completed_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Entry> entries_;
  std::atomic<bool> waiting_{false}, arrived_{false}, stopping_{false};
  std::string error_;
  std::atomic<bool> profiling_{false};
  std::mutex profile_mutex_;
  std::chrono::steady_clock::time_point profile_start_;
  std::vector<Span> profile_;
  std::thread thread_;
};

}  // namespace lowrank
