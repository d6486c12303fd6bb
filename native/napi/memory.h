// The buffers of one backend. They are given out and taken back while ops are enqueued: the queue is in order, so that freed memory may
// serve the next allocation at once.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "arena.h"

namespace lowrank {

// Writes what was changed of them and lets them go, if the process holds more than `limit` bytes of memory or nobody can tell.
void page_out(Pages pages, bool read_only, double limit);

// A thread that reads mapped files ahead of their use.
class Fetcher {
 public:
  Fetcher();
  ~Fetcher();
  Fetcher(const Fetcher&) = delete;
  Fetcher& operator=(const Fetcher&) = delete;

  // Begins to bring pages into memory, after those that it was asked for before.
  void fetch(Pages pages);
  // Stops bringing these; afterwards nothing does.
  void forget(Pages pages);

 private:
  void work();

  static constexpr size_t kPiece = size_t{4} << 20;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Pages> wanted_;
  Pages piece_;  // under way
  bool stopping_ = false;
  std::thread thread_;
};

struct Buffer {
  // Cut from the arena, or a mapping.
  Arena::Piece piece;
  size_t bytes = 0;
  Mapping mapping;
  bool read_only = false;
  bool used = false;

  bool mapped() const { return mapping.data != nullptr; }
};

class Memory {
 public:
  explicit Memory(Enqueue enqueue) : enqueue_(std::move(enqueue)), arena_(enqueue_) {}
  // Only when no command can run any more.
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // All throw std::runtime_error, with a message for people.
  int32_t allocate(size_t bytes);
  int32_t map_file(const std::string& path, size_t offset, size_t bytes);
  // Zeros in a file of `folder` that has no name and ends with the buffer; its room on the disk is taken at once.
  int32_t allocate_paged(size_t bytes, const std::string& folder);
  void free(int32_t id);
  // The file of a buffer whose pages were lost as `lost_file` of platform.h says, else "".
  std::string lost_file() const;
  // The buffer of a number that comes from JavaScript.
  Buffer& at(double id);

 private:
  int32_t insert(Buffer buffer);
  int32_t insert(const Mapping& mapping, bool read_only);

  Enqueue enqueue_;
  Arena arena_;
  std::vector<Buffer> buffers_;
  std::vector<int32_t> vacant_;
};

}  // namespace lowrank
