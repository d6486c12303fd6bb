// The queue and its pool under ThreadSanitizer (npm run test:asan): commands that depend on each other, pushed while others run, with
// pauses after which the threads sleep, errors, a profile, and an end with commands left.
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../napi/queue.h"

using lowrank::Pool;
using lowrank::Queue;
using lowrank::Slot;

namespace {

void wait_for(const Queue& queue) {
  while (queue.completed() < queue.pushed()) std::this_thread::yield();
}

// Each command reads what the one before wrote, on all threads. Returns what is wrong.
const char* dependent_commands(int threads) {
  Queue queue(threads);
  std::vector<int64_t> values(1000, 0);
  for (int round = 0; round < 300; round++) {
    queue.push(0, [&values, round](Pool& pool) {
      pool.each(static_cast<int64_t>(values.size()), [&](int64_t task, int) { values[task] += round; });
    });
    queue.push(-1, [&values](Pool& pool) {
      pool.ranges(static_cast<int64_t>(values.size()), 7, [&](int64_t begin, int64_t end, int thread) {
        auto* scratch = static_cast<int64_t*>(pool.scratch(thread, Slot::own, 7 * sizeof(int64_t)));
        for (int64_t i = begin; i < end; i++) scratch[i - begin] = values[i] * 2;
        for (int64_t i = begin; i < end; i++) values[i] = scratch[i - begin] / 2;
      });
    });
    // Long enough for all threads to fall asleep.
    if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (round == 100) queue.start_profile();
    if (round == 200) {
      wait_for(queue);
      if (queue.take_profile().empty()) return "the profile is empty";
    }
  }
  wait_for(queue);
  for (const int64_t value : values)
    if (value != 299 * 300 / 2) return "a command ran before the one that it depends on";
  if (!queue.take_error().empty()) return "an error that nobody made";
  return nullptr;
}

const char* errors_and_ends(int threads) {
  for (int round = 0; round < 20; round++) {
    Queue queue(threads);
    std::string error;
    queue.push(-1, [](Pool&) { throw std::runtime_error("made up"); });
    queue.push(-1, [&](Pool&) { error = queue.take_error(); });
    wait_for(queue);
    if (error != "made up") return "the error was lost";
    // Some of these are dropped.
    for (int i = 0; i < 50; i++) queue.push(-1, [](Pool& pool) { pool.each(10, [](int64_t, int) {}); });
    queue.stop();
  }
  return nullptr;
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 4}) {
    for (const char* problem : {dependent_commands(threads), errors_and_ends(threads)}) {
      if (!problem) continue;
      std::fprintf(stderr, "%d threads: %s\n", threads, problem);
      return 1;
    }
  }
  std::puts("queue and pool: nothing wrong");
  return 0;
}
