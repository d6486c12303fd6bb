// A persistent team of threads. The caller is thread 0; the others sleep between calls after a short spin.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lowrank {

// What a block of scratch memory is for. src/plan/scratch.ts estimates their sizes under the same names.
enum class Slot {
  shared,       // of the first thread, read by all: a packed left factor, packed keys and values, a widened weight
  own,          // of each thread: a packed right factor, a block of attention
  down,         // the packed factor `down` of a low-rank branch
  masked,       // a left panel under a dropout mask
  sums,         // sums between blocks of K, or those of pieces that are added up at the end
  branch,       // packed panels of a branch's h
  branch_sums,  // the sums that become h
  rows,         // rows as f32
  count
};

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // A body of `each`, and how it is called.
  using Task = void (*)(const void* body, int64_t task, int thread);

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(task, thread) for every task in [0, tasks), of which there must be less than 2³¹. Of T threads number t begins with its own
  // part of the tasks, [t/T, (t+1)/T), so that what it wrote in one call lies in its cache in the next. Then it helps the others and takes
  // their last tasks first. A result must not depend on who takes which task.
  template <class Body>
  void each(int64_t tasks, const Body& body) {
    const Task call = [](const void* b, int64_t task, int thread) { (*static_cast<const Body*>(b))(task, thread); };
    run(tasks, call, &body);
  }

  // Runs body(begin, end, thread) over [0, n) in pieces of `grain` elements, of which the last may be smaller. As the pieces are the same
  // for any number of threads, so are sums that are made piece by piece.
  template <class Body>
  void ranges(int64_t n, int64_t grain, const Body& body) {
    if (grain < 1) grain = 1;
    each((n + grain - 1) / grain, [&](int64_t piece, int thread) {
      const int64_t begin = piece * grain, end = begin + grain < n ? begin + grain : n;
      body(begin, end, thread);
    });
  }

  // Memory of one thread for one use, 64-byte aligned and at least `bytes` long. It stays allocated between calls; its contents may be
  // lost.
  void* scratch(int thread, Slot slot, size_t bytes);
  // How many bytes all blocks of scratch memory hold.
  size_t scratch_bytes() const { return scratch_bytes_.load(); }

 private:
  void run(int64_t tasks, Task task, const void* body);
  void work(int thread);
  void drain(int thread);

  static constexpr size_t kSlots = static_cast<size_t>(Slot::count);
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };
  std::vector<std::thread> workers_;
  std::vector<Block> blocks_;
  std::atomic<size_t> scratch_bytes_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  // What is left of a thread's part of the tasks, [begin, end). The thread takes the first of them, and those who help it take the last.
  class alignas(64) Part {
   public:
    struct Range {
      int32_t begin, end;
    };
    void store(Range range) { left_.store(range, std::memory_order_release); }
    // These return the task that was taken, or −1 where none is left.
    int64_t take_first() {
      return take([](Range& range) { return range.begin++; });
    }
    int64_t take_last() {
      return take([](Range& range) { return --range.end; });
    }

   private:
    template <class Change>
    int64_t take(const Change& change) {
      Range range = left_.load(std::memory_order_relaxed);
      while (range.begin < range.end) {
        Range rest = range;
        const int64_t task = change(rest);
        if (left_.compare_exchange_weak(range, rest, std::memory_order_acquire, std::memory_order_relaxed)) return task;
      }
      return -1;
    }
    std::atomic<Range> left_{Range{0, 0}};
  };
  std::vector<Part> parts_;
  std::atomic<int64_t> unfinished_{0};  // tasks
  Task task_ = nullptr;
  const void* body_ = nullptr;
  bool stop_ = false;
};

}  // namespace lowrank
