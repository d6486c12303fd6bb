// POSIX: what becomes of a mapped page that the system cannot bring into memory.
#pragma once
#include <cstddef>
#include <string>

namespace lowrank {

// Looks after a mapping, whole pages from `begin` on, until `forget_mapping`: a page that cannot be had, because the file was cut off or
// its disk fails, raises SIGBUS in the thread that touches it, which would end the process. Instead the mapping reads as zeros from there
// on, and has lost pages. Other SIGBUS signals go where they went before.
void* watch_mapping(void* begin, size_t bytes, bool writable, const std::string& path);
void forget_mapping(void* watch);

}  // namespace lowrank
