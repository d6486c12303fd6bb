#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace lowrank {

namespace {

std::string megabytes(size_t bytes) { return std::to_string((bytes + 999999) / 1000000) + " MB"; }

// Bytes of memory that the process holds; infinite where the system does not say.
double resident_bytes() {
  double pages = INFINITY;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%*s %lf", &pages) != 1) pages = INFINITY;
    std::fclose(file);
  }
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// The pages that hold these bytes.
Pages whole(Pages bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), begin = reinterpret_cast<uintptr_t>(bytes.data) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(bytes.data) + bytes.bytes + page - 1) / page * page;
  return {reinterpret_cast<char*>(begin), end - begin};
}

void unmap(const Buffer& buffer) {
  const Pages pages = whole({buffer.piece.data, buffer.bytes});
  munmap(pages.data, pages.bytes);
}

}  // namespace

void page_out(Pages pages, bool read_only, double limit) {
  if (resident_bytes() <= limit) return;
  pages = whole(pages);
  if (!read_only && msync(pages.data, pages.bytes, MS_SYNC) != 0)
    throw std::runtime_error(std::string("paged memory cannot be written: ") + std::strerror(errno));
  madvise(pages.data, pages.bytes, MADV_DONTNEED);
}

Fetcher::Fetcher() : thread_([this] { work(); }) {}

Fetcher::~Fetcher() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wanted_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

void Fetcher::fetch(Pages pages) {
  const std::lock_guard lock(mutex_);
  wanted_.push_back(whole(pages));
  changed_.notify_all();
}

void Fetcher::forget(Pages pages) {
  pages = whole(pages);
  const auto meets = [&](const Pages& other) { return other.data < pages.data + pages.bytes && pages.data < other.data + other.bytes; };
  std::unique_lock lock(mutex_);
  std::erase_if(wanted_, meets);
  changed_.wait(lock, [&] { return !meets(piece_); });
}

void Fetcher::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !wanted_.empty(); });
    if (stopping_) return;
    Pages& next = wanted_.front();
    piece_ = {next.data, std::min(next.bytes, kPiece)};
    next = {next.data + piece_.bytes, next.bytes - piece_.bytes};
    if (next.bytes == 0) wanted_.pop_front();
    lock.unlock();
    // Neither call minds a mapping that is gone.
#if defined(MADV_POPULATE_READ)
    if (madvise(piece_.data, piece_.bytes, MADV_POPULATE_READ) != 0)
#endif
      madvise(piece_.data, piece_.bytes, MADV_WILLNEED);
    lock.lock();
    piece_ = {};
    changed_.notify_all();
  }
}

Memory::~Memory() {
  for (const Buffer& buffer : buffers_)
    if (buffer.used && buffer.mapped) unmap(buffer);
}

int32_t Memory::insert(Buffer buffer) {
  buffer.used = true;
  if (vacant_.empty()) {
    buffers_.push_back(buffer);
    return static_cast<int32_t>(buffers_.size() - 1);
  }
  const int32_t id = vacant_.back();
  vacant_.pop_back();
  buffers_[id] = buffer;
  return id;
}

int32_t Memory::allocate(size_t bytes) {
  const Arena::Piece piece = arena_.allocate(bytes);
  if (!piece.data)
    throw std::runtime_error("out of memory: " + megabytes(bytes) + " more than the " + megabytes(arena_.live_bytes()) + " in use cannot be had");
  return insert({piece, bytes, false, false});
}

int32_t Memory::map_file(const char* path, size_t offset, size_t bytes) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  const bool found = file >= 0 && fstat(file, &status) == 0;
  const auto size = static_cast<size_t>(status.st_size);
  const bool mappable = found && S_ISREG(status.st_mode) && offset <= size && bytes <= size - offset;
  // A mapping begins with a page.
  const size_t before = offset % static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* data = mappable ? mmap(nullptr, before + bytes, PROT_READ, MAP_PRIVATE, file, static_cast<off_t>(offset - before)) : MAP_FAILED;
  const std::string reason = found && !mappable ? "not a file that holds these bytes" : std::strerror(errno);
  if (file >= 0) close(file);
  if (data == MAP_FAILED) throw std::runtime_error(std::string(path) + ": " + reason);
  return insert({{static_cast<char*>(data) + before, bytes}, bytes, true, true});
}

int32_t Memory::allocate_paged(size_t bytes, const std::string& folder) {
  const auto failed = [&](const char* what, int error) {
    return std::runtime_error(folder + ": " + megabytes(bytes) + " of paged memory: " + what + ": " + std::strerror(error));
  };
  std::string path = folder + "/.paged-XXXXXX";
  const int file = mkstemp(path.data());
  if (file < 0) throw failed("no file can be made", errno);
  unlink(path.c_str());
#if defined(__linux__)
  const int full = posix_fallocate(file, 0, static_cast<off_t>(bytes));
#else
  const int full = ftruncate(file, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
#endif
  void* data = full == 0 ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  const int error = full == 0 ? errno : full;
  close(file);
  if (data == MAP_FAILED) throw failed(full == 0 ? "it cannot be mapped" : "the disk does not give it", error);
  return insert({{static_cast<char*>(data), bytes}, bytes, true, false});
}

void Memory::free(int32_t id) {
  Buffer& buffer = at(id);
  buffer.used = false;
  vacant_.push_back(id);
  if (buffer.mapped) enqueue_([buffer] { unmap(buffer); });
  else arena_.free(buffer.piece);
}

Buffer& Memory::at(double id) {
  if (!(id >= 0) || id >= static_cast<double>(buffers_.size()) || !buffers_[static_cast<size_t>(id)].used)
    throw std::runtime_error("unknown buffer: it was freed or belongs to another backend");
  return buffers_[static_cast<size_t>(id)];
}

}  // namespace lowrank
