#include "pages.h"

#include <new>

#include "../platform/platform.h"

namespace lowrank {

void* allocate_block(size_t bytes) {
  if (bytes < kPageBlock) return ::operator new(bytes, std::align_val_t{64}, std::nothrow);
  return allocate_pages(bytes, kPageBlock);
}

void free_block(void* data, size_t bytes) {
  if (bytes >= kPageBlock) free_pages(data, bytes);
  else ::operator delete(data, std::align_val_t{64});
}

}  // namespace lowrank
