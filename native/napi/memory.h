// The buffers of one backend. They are given out and taken back while ops are enqueued: the queue is in order, so that a freed block may
// serve the next allocation at once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <vector>

namespace lowrank {

// Memory from the system: heap blocks, pages of their own from 2 MiB on, or a mapped file.
struct Block {
  void* data = nullptr;
  size_t capacity = 0;
  bool mapped = false;
};
void release(const Block& block);
// Writes a mapped file's changed pages and lets all of them go, if the process holds more than `limit` bytes of memory or nobody can tell.
void page_out(const Block& block, double limit);

struct Buffer {
  Block block;
  size_t bytes = 0;
  bool used = false;
  bool read_only = false;
  // The number of the last command that touches this block (in an earlier life too).
  uint64_t last_use = 0;
};

class Memory {
 public:
  // `retire` must call `release` once all commands enqueued so far are done.
  explicit Memory(std::function<void(Block)> retire) : retire_(std::move(retire)) {}
  // Only when no command can run any more.
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // All throw std::runtime_error, with a message for people.
  int32_t allocate(size_t bytes);
  int32_t map_file(const char* path);
  // Zeros in a file of `folder` that has no name and ends with the buffer; its room on the disk is taken at once.
  int32_t allocate_paged(size_t bytes, const std::string& folder);
  void free(int32_t id);
  // The buffer of a number that comes from JavaScript.
  Buffer& at(double id);

 private:
  struct Cached {
    Block block;
    uint64_t last_use;
  };
  int32_t insert(Buffer buffer);
  void trim(size_t wanted);

  std::function<void(Block)> retire_;
  std::vector<Buffer> buffers_;
  std::vector<int32_t> vacant_;
  // Blocks to be reused, the one that has waited longest first, and where those of one capacity stand.
  std::list<Cached> cached_;
  std::map<size_t, std::vector<std::list<Cached>::iterator>> by_capacity_;
  size_t live_bytes_ = 0, cached_bytes_ = 0, peak_bytes_ = 0;
};

}  // namespace lowrank
