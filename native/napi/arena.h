// The memory of tensors: one stretch of address space, handed out in pieces that join again when they come back. A step's tensors have
// many sizes; what one size leaves serves the others, so that no page has to be given back and cleared anew.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "../platform/platform.h"

namespace lowrank {

// Runs something after all commands enqueued so far; returns the number that it has among the commands.
using Enqueue = std::function<uint64_t(std::function<void()>)>;

class Arena {
 public:
  explicit Arena(Enqueue enqueue);
  // Only when no command can run any more.
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  struct Piece {
    char* data = nullptr;  // nullptr: there is no more memory
    size_t bytes = 0;
    // The number of the last command that touches it, in an earlier life.
    uint64_t last_use = 0;
  };
  // The smallest free piece that is large enough, cut to size. 64-byte aligned; contents are undefined.
  Piece allocate(size_t bytes);
  void free(const Piece& piece);

  size_t live_bytes() const { return live_; }

 private:
  struct Range {
    size_t bytes;
    uint64_t last_use;
  };
  using Ranges = std::map<size_t, Range>;
  Ranges::iterator insert(size_t begin, Range range);
  void erase(Ranges::iterator at);
  bool commit(size_t end);
  void trim();

  Enqueue enqueue_;
  Pages reservation_;
  // Its first huge page, and bytes from there: what is reserved, what may be touched, what was ever handed out.
  char* base_ = nullptr;
  size_t reserved_ = 0, committed_ = 0, end_ = 0;
  // Free ranges by where they begin, and (bytes, begin) of them; no two of them touch.
  Ranges free_;
  std::set<std::pair<size_t, size_t>> by_size_;
  // Which huge pages were handed out since they were last given back.
  std::vector<bool> resident_;
  size_t resident_pages_ = 0, live_ = 0, peak_ = 0;
};

}  // namespace lowrank
