#include "pool.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "../platform/sanitizer.h"
#include "pages.h"

namespace lowrank {

namespace {
// How often a thread looks for work before it sleeps, about 20 µs on current machines: long enough to bridge the gap between two ops, short
// enough not to keep an idle core busy.
constexpr int kSpins = 4000;

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}
}  // namespace

Pool::Pool(int threads) : blocks_(static_cast<size_t>(std::max(threads, 1)) * kSlots), parts_(std::max(threads, 1)) {
  for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    generation_++;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
  for (auto& block : blocks_) permit(block.data, block.bytes);
  for (auto& block : blocks_)
    if (block.data) free_block(block.data, block.bytes);
}

void* Pool::scratch(int thread, Slot slot, size_t bytes) {
  Block& block = blocks_[static_cast<size_t>(thread) * kSlots + static_cast<size_t>(slot)];
  if (block.bytes < bytes) {
    permit(block.data, block.bytes);
    if (block.data) free_block(block.data, block.bytes);
    scratch_bytes_ -= block.bytes;
    block = {};
    // Blocks that a thread streams through again and again are worth a huge page.
    const size_t size = bytes < kPageBlock / 16 ? bytes : (bytes + kPageBlock - 1) / kPageBlock * kPageBlock;
    block.data = allocate_block(size);
    if (!block.data) throw std::bad_alloc();
    block.bytes = size;
    scratch_bytes_ += size;
  }
  // What is left of a larger use before is nobody's.
  permit(block.data, bytes);
  if (block.bytes > bytes) forbid(static_cast<char*>(block.data) + bytes, block.bytes - bytes);
  return block.data;
}

void Pool::run(int64_t tasks, Task task, const void* body) {
  if (tasks <= 0) return;
  if (tasks == 1 || workers_.empty()) {
    for (int64_t i = 0; i < tasks; i++) task(body, i, 0);
    return;
  }
  // No thread still has a task of the call before, and none gets one before these are written, so a worker that wakes late finds what is
  // there then.
  task_ = task;
  body_ = body;
  unfinished_.store(tasks, std::memory_order_relaxed);
  for (int64_t i = 0; i < threads(); i++) {
    parts_[i].store({static_cast<int32_t>(tasks * i / threads()), static_cast<int32_t>(tasks * (i + 1) / threads())});
  }
  {
    std::lock_guard lock(mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  drain(0);
  // This waits for tasks and not for workers, because a worker that the system gave no time has no task either.
  while (unfinished_.load(std::memory_order_acquire) != 0) pause();
}

void Pool::drain(int thread) {
  const auto finish = [&](int64_t task) {
    task_(body_, task, thread);
    unfinished_.fetch_sub(1, std::memory_order_release);
  };
  for (int64_t task; (task = parts_[thread].take_first()) >= 0;) finish(task);
  for (int i = 1; i < threads(); i++)
    for (int64_t task; (task = parts_[(thread + i) % threads()].take_last()) >= 0;) finish(task);
}

void Pool::work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; spin++) pause();
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    drain(thread);
  }
}

}  // namespace lowrank
