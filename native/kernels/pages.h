// Memory from the system.
#pragma once
#include <cstddef>

namespace lowrank {

// From this size on a block has pages of its own, huge ones where the system has them: fewer misses in the TLB, and no two parts of a block
// that fall on the same lines of a cache by chance.
inline constexpr size_t kPageBlock = size_t{2} << 20;

// At least 64-byte aligned; nullptr where there is no more memory. Contents are undefined.
void* allocate_block(size_t bytes);
// `bytes` as it was given to allocate_block.
void free_block(void* data, size_t bytes);

}  // namespace lowrank
