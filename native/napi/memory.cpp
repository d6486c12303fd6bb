#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "../kernels/pages.h"

namespace lowrank {

namespace {

// What may be held beyond the peak of live memory before cached blocks go back to the system.
constexpr size_t kSlack = size_t{16} << 20;

// Eight sizes per octave: at most an eighth of a block is wasted, and sizes that differ little share blocks.
size_t capacity_for(size_t bytes) {
  const size_t step = std::max<size_t>(64, std::bit_floor(std::max<size_t>(bytes, 1)) / 8);
  return (bytes + step - 1) / step * step;
}

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

void release(const Block& block) {
  if (block.mapped) {
    const Pages pages = whole({static_cast<char*>(block.data), block.capacity});
    munmap(pages.data, pages.bytes);
    return;
  }
  free_block(block.data, block.capacity);
}

Memory::~Memory() {
  for (const Buffer& buffer : buffers_)
    if (buffer.used) release(buffer.block);
  for (const Cached& cached : cached_) release(cached.block);
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
  const size_t capacity = capacity_for(bytes);
  live_bytes_ += capacity;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  auto same = by_capacity_.find(capacity);
  if (same != by_capacity_.end() && !same->second.empty()) {
    const auto cached = same->second.back();
    same->second.pop_back();
    const Buffer buffer{cached->block, bytes, true, false, cached->last_use};
    cached_.erase(cached);
    cached_bytes_ -= capacity;
    return insert(buffer);
  }
  trim(0);
  const Block block{allocate_block(capacity), capacity, false};
  if (!block.data) {
    live_bytes_ -= capacity;
    throw std::runtime_error("out of memory: " + megabytes(bytes) + " more than the " + megabytes(live_bytes_) + " in use cannot be had");
  }
  return insert({block, bytes, true, false, 0});
}

// Gives back cached blocks, the oldest first, so that what is held stays near the peak of what was in use at one time.
void Memory::trim(size_t wanted) {
  const size_t bound = peak_bytes_ + peak_bytes_ / 32 + kSlack;
  while (!cached_.empty() && live_bytes_ + cached_bytes_ + wanted > bound) {
    const auto oldest = cached_.begin();
    std::erase(by_capacity_[oldest->block.capacity], oldest);
    cached_bytes_ -= oldest->block.capacity;
    retire_(oldest->block);
    cached_.erase(oldest);
  }
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
  return insert({{static_cast<char*>(data) + before, bytes, true}, bytes, true, true, 0});
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
  return insert({{data, bytes, true}, bytes, true, false, 0});
}

void Memory::free(int32_t id) {
  Buffer& buffer = at(id);
  buffer.used = false;
  vacant_.push_back(id);
  if (buffer.block.mapped) return retire_(buffer.block);
  live_bytes_ -= buffer.block.capacity;
  cached_bytes_ += buffer.block.capacity;
  cached_.push_back({buffer.block, buffer.last_use});
  by_capacity_[buffer.block.capacity].push_back(std::prev(cached_.end()));
}

Buffer& Memory::at(double id) {
  if (!(id >= 0) || id >= static_cast<double>(buffers_.size()) || !buffers_[static_cast<size_t>(id)].used)
    throw std::runtime_error("unknown buffer: it was freed or belongs to another backend");
  return buffers_[static_cast<size_t>(id)];
}

}  // namespace lowrank
