#include "queue.h"

#include <utility>

#include "../kernels/ops.generated.h"

namespace lowrank {

namespace {
// How long the thread looks for new commands before it sleeps: waking it would cost the enqueuing thread more than a command does.
constexpr auto kPatience = std::chrono::microseconds(50);
}  // namespace

Queue::Queue(int threads) : pool_(threads), thread_([this] { work(); }) {}

void Queue::push(int op, Command command) {
  bool sleeping;
  {
    std::lock_guard lock(mutex_);
    entries_.push_back({op, std::move(command)});
    pushed_++;
    sleeping = waiting_.load();
    arrived_.store(true);
  }
  if (sleeping) wake_.notify_one();
}

void Queue::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

std::string Queue::take_error() { return std::exchange(error_, {}); }

void Queue::start_profile() {
  std::lock_guard lock(profile_mutex_);
  profile_.clear();
  profile_start_ = std::chrono::steady_clock::now();
  profiling_ = true;
}

std::vector<Queue::Span> Queue::take_profile() {
  std::lock_guard lock(profile_mutex_);
  profiling_ = false;
  return std::exchange(profile_, {});
}

// Takes all that has arrived; false when the queue stops.
bool Queue::wait(std::vector<Entry>& batch) {
  const auto start = std::chrono::steady_clock::now();
  while (!arrived_.load(std::memory_order_acquire) && !stopping_ && std::chrono::steady_clock::now() - start < kPatience)
    std::this_thread::yield();
  std::unique_lock lock(mutex_);
  waiting_ = true;
  wake_.wait(lock, [this] { return stopping_ || !entries_.empty(); });
  waiting_ = false;
  arrived_ = false;
  batch.swap(entries_);
  return !stopping_;
}

void Queue::work() {
  std::vector<Entry> batch;
  while (wait(batch)) {
    for (Entry& entry : batch) {
      if (stopping_) return;
      run(entry);
      entry.command = nullptr;
      completed_.fetch_add(1, std::memory_order_release);
    }
    batch.clear();
  }
}

void Queue::run(Entry& entry) {
  const auto start = std::chrono::steady_clock::now();
  try {
    entry.command(pool_);
  } catch (const std::exception& error) {
    if (error_.empty()) error_ = (entry.op < 0 ? "" : std::string(op_infos[entry.op].name) + ": ") + error.what();
  }
  if (!profiling_ || entry.op < 0) return;
  const auto end = std::chrono::steady_clock::now();
  std::lock_guard lock(profile_mutex_);
  const std::chrono::duration<double, std::milli> from = start - profile_start_, to = end - profile_start_;
  if (profiling_) profile_.push_back({entry.op, from.count(), to.count()});
}

}  // namespace lowrank
