#if !defined(_WIN32)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "lost_pages.h"
#include "platform.h"

#if defined(__APPLE__)
#include <mach/mach.h>
#endif

namespace lowrank {

namespace {

// Huge pages, where the system has them: fewer misses in the TLB.
void want_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
}

// Makes a file so long and takes its room on the disk; an error number, or 0.
int take_room(int file, size_t bytes) {
  const auto length = static_cast<off_t>(bytes);
#if defined(__APPLE__)
  fstore_t room{F_ALLOCATEALL, F_PEOFPOSMODE, 0, length, 0};
  // Some file systems cannot: there the room is taken as it is written.
  if (fcntl(file, F_PREALLOCATE, &room) == -1 && errno != ENOTSUP && errno != EINVAL) return errno;
  return ftruncate(file, length) == 0 ? 0 : errno;
#else
  return posix_fallocate(file, 0, length);
#endif
}

}  // namespace

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

size_t physical_memory() { return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * page_size(); }

double resident_bytes() {
#if defined(__APPLE__)
  mach_task_basic_info info{};
  mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
  const auto status = task_info(mach_task_self(), MACH_TASK_BASIC_INFO, reinterpret_cast<task_info_t>(&info), &count);
  return status == KERN_SUCCESS ? static_cast<double>(info.resident_size) : INFINITY;
#else
  double pages = INFINITY;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%*s %lf", &pages) != 1) pages = INFINITY;
    std::fclose(file);
  }
  return pages * static_cast<double>(page_size());
#endif
}

Pages reserve_addresses(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return {};
  want_huge_pages(data, bytes);
  return {static_cast<char*>(data), bytes};
}

void release_addresses(Pages reservation) { munmap(reservation.data, reservation.bytes); }

bool commit_pages(Pages pages) { return mprotect(pages.data, pages.bytes, PROT_READ | PROT_WRITE) == 0; }

void discard_pages(Pages pages) {
#if defined(__linux__)
  madvise(pages.data, pages.bytes, MADV_DONTNEED);
#else
  madvise(pages.data, pages.bytes, MADV_FREE);
#endif
}

void* allocate_pages(size_t bytes, size_t alignment) {
  // Mapped with room to begin on the border; the rest goes back.
  const size_t room = bytes + alignment;
  void* mapping = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const auto start = reinterpret_cast<uintptr_t>(mapping), begin = (start + alignment - 1) / alignment * alignment;
  const auto end = (begin + bytes + page_size() - 1) / page_size() * page_size();
  if (begin > start) munmap(mapping, begin - start);
  if (start + room > end) munmap(reinterpret_cast<void*>(end), start + room - end);
  void* data = reinterpret_cast<void*>(begin);
  want_huge_pages(data, bytes);
  return data;
}

void free_pages(void* data, size_t bytes) { munmap(data, bytes); }

Mapping map_file(const std::string& path, size_t offset, size_t bytes) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  const bool found = file >= 0 && fstat(file, &status) == 0;
  const auto size = static_cast<size_t>(status.st_size);
  const bool mappable = found && S_ISREG(status.st_mode) && offset <= size && bytes <= size - offset;
  // A mapping begins with a page.
  const size_t before = offset % page_size();
  void* data = mappable ? mmap(nullptr, before + bytes, PROT_READ, MAP_PRIVATE, file, static_cast<off_t>(offset - before)) : MAP_FAILED;
  const std::string reason = found && !mappable ? "not a file that holds these bytes" : std::strerror(errno);
  if (file >= 0) close(file);
  if (data == MAP_FAILED) throw std::runtime_error(reason);
  return {static_cast<char*>(data) + before, bytes, watch_mapping(data, before + bytes, false, path)};
}

Mapping map_temporary_file(const std::string& folder, size_t bytes) {
  const auto failed = [&](const char* what, int error) { return std::runtime_error(std::string(what) + ": " + std::strerror(error)); };
  std::string path = folder + "/.paged-XXXXXX";
  const int file = mkstemp(path.data());
  if (file < 0) throw failed("no file can be made", errno);
  unlink(path.c_str());
  const int full = take_room(file, bytes);
  void* data = full == 0 ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  const int error = full == 0 ? errno : full;
  close(file);
  if (data == MAP_FAILED) throw failed(full == 0 ? "it cannot be mapped" : "the disk does not give it", error);
  return {static_cast<char*>(data), bytes, watch_mapping(data, bytes, true, folder)};
}

void unmap(const Mapping& mapping) {
  forget_mapping(mapping.keeper);
  const size_t before = reinterpret_cast<uintptr_t>(mapping.data) % page_size();
  munmap(mapping.data - before, before + mapping.bytes);
}

void fetch_pages(Pages pages) {
#if defined(MADV_POPULATE_READ)
  if (madvise(pages.data, pages.bytes, MADV_POPULATE_READ) == 0) return;
#endif
  madvise(pages.data, pages.bytes, MADV_WILLNEED);
}

void write_pages(Pages pages) {
  if (msync(pages.data, pages.bytes, MS_SYNC) != 0)
    throw std::runtime_error(std::string("paged memory cannot be written: ") + std::strerror(errno));
}

void drop_pages(Pages pages) { madvise(pages.data, pages.bytes, MADV_DONTNEED); }

}  // namespace lowrank
#endif
