// What AddressSanitizer cannot know of memory that is handed out in pieces: which bytes are nobody's. Without it these do nothing.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
namespace lowrank {
inline constexpr bool kSanitized = true;
inline void forbid(const void* data, size_t bytes) { __asan_poison_memory_region(data, bytes); }
inline void permit(const void* data, size_t bytes) { __asan_unpoison_memory_region(data, bytes); }
}  // namespace lowrank
#else
namespace lowrank {
inline constexpr bool kSanitized = false;
inline void forbid(const void*, size_t) {}
inline void permit(const void*, size_t) {}
}  // namespace lowrank
#endif
