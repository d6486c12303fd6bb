#include "memory.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace lowrank {

namespace {

std::string megabytes(size_t bytes) { return std::to_string((bytes + 999999) / 1000000) + " MB"; }

// The pages that hold these bytes.
Pages whole(Pages bytes) {
  const auto page = static_cast<uintptr_t>(page_size()), begin = reinterpret_cast<uintptr_t>(bytes.data) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(bytes.data) + bytes.bytes + page - 1) / page * page;
  return {reinterpret_cast<char*>(begin), end - begin};
}

}  // namespace

void page_out(Pages pages, bool read_only, double limit) {
  if (resident_bytes() <= limit) return;
  pages = whole(pages);
  if (!read_only) write_pages(pages);
  drop_pages(pages);
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
    fetch_pages(piece_);
    lock.lock();
    piece_ = {};
    changed_.notify_all();
  }
}

Memory::~Memory() {
  for (const Buffer& buffer : buffers_)
    if (buffer.used && buffer.mapped()) unmap(buffer.mapping);
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

int32_t Memory::insert(const Mapping& mapping, bool read_only) {
  return insert({{mapping.data, mapping.bytes}, mapping.bytes, mapping, read_only});
}

int32_t Memory::allocate(size_t bytes) {
  const Arena::Piece piece = arena_.allocate(bytes);
  if (!piece.data)
    throw std::runtime_error("out of memory: " + megabytes(bytes) + " more than the " + megabytes(arena_.live_bytes()) +
                             " in use cannot be had");
  return insert({piece, bytes, {}, false});
}

int32_t Memory::map_file(const std::string& path, size_t offset, size_t bytes) {
  try {
    return insert(lowrank::map_file(path, offset, bytes), true);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

int32_t Memory::allocate_paged(size_t bytes, const std::string& folder) {
  try {
    return insert(map_temporary_file(folder, bytes), false);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(folder + ": " + megabytes(bytes) + " of paged memory: " + error.what());
  }
}

void Memory::free(int32_t id) {
  Buffer& buffer = at(id);
  buffer.used = false;
  vacant_.push_back(id);
  if (buffer.mapped()) enqueue_([mapping = buffer.mapping] { unmap(mapping); });
  else arena_.free(buffer.piece);
}

std::string Memory::lost_file() const {
  if (!any_file_lost()) return {};
  for (const Buffer& buffer : buffers_) {
    std::string path = buffer.used && buffer.mapped() ? lowrank::lost_file(buffer.mapping) : "";
    if (!path.empty()) return path;
  }
  return {};
}

Buffer& Memory::at(double id) {
  if (!(id >= 0) || id >= static_cast<double>(buffers_.size()) || !buffers_[static_cast<size_t>(id)].used)
    throw std::runtime_error("unknown buffer: it was freed or belongs to another backend");
  return buffers_[static_cast<size_t>(id)];
}

}  // namespace lowrank
