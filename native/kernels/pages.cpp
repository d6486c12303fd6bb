#include "pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

namespace lowrank {

void* allocate_block(size_t bytes) {
  if (bytes < kPageBlock) return ::operator new(bytes, std::align_val_t{64}, std::nothrow);
  // Mapped with room to begin on a huge page's border; the rest goes back.
  const size_t room = bytes + kPageBlock;
  void* mapping = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const auto start = reinterpret_cast<uintptr_t>(mapping), begin = (start + kPageBlock - 1) / kPageBlock * kPageBlock;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), end = (begin + bytes + page - 1) / page * page;
  if (begin > start) munmap(mapping, begin - start);
  if (start + room > end) munmap(reinterpret_cast<void*>(end), start + room - end);
  void* data = reinterpret_cast<void*>(begin);
#if defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

void free_block(void* data, size_t bytes) {
  if (bytes >= kPageBlock) munmap(data, bytes);
  else ::operator delete(data, std::align_val_t{64});
}

}  // namespace lowrank
