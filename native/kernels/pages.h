// Memory from the system.
#pragma once
#include <cstddef>

namespace lowrank {

// From this size on a block has pages of its own, which are huge where the system has such. There are fewer misses in the TLB then, and no
// two parts of a block fall on the same lines of a cache by chance.
inline constexpr size_t kPageBlock = size_t{2} << 20;

// Memory that is at least 64-byte aligned and whose contents are undefined; nullptr where there is no more.
void* allocate_block(size_t bytes);
// Gives a block back. `bytes` is what was given to allocate_block.
void free_block(void* data, size_t bytes);

}  // namespace lowrank
