#include "arena.h"

#include <algorithm>
#include <iterator>

#include "../kernels/pages.h"
#include "../platform/sanitizer.h"

namespace lowrank {

namespace {

constexpr size_t kLine = 64;
// Addresses are reserved for several times the machine's memory: what is given back keeps its own.
constexpr size_t kAddressesPerByte = 4, kLeastReserved = size_t{1} << 30;
// What may be held beyond the peak of live memory before free ranges go back to the system.
constexpr size_t kSlack = size_t{16} << 20;

size_t round_up(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

}  // namespace

Arena::Arena(Enqueue enqueue) : enqueue_(std::move(enqueue)) {
  const size_t most = std::max(physical_memory() * kAddressesPerByte, kLeastReserved);
  // A process may be allowed less.
  for (size_t bytes = most; bytes >= kLeastReserved && !reservation_.data; bytes /= 2) reservation_ = reserve_addresses(bytes);
  if (!reservation_.data) return;
  const size_t before = -reinterpret_cast<uintptr_t>(reservation_.data) % kPageBlock;
  base_ = reservation_.data + before;
  reserved_ = (reservation_.bytes - before) / kPageBlock * kPageBlock;
}

Arena::~Arena() {
  if (!reservation_.data) return;
  permit(base_, committed_);
  release_addresses(reservation_);
}

Arena::Piece Arena::allocate(size_t bytes) {
  if (bytes > reserved_) return {};
  const size_t asked = bytes;
  bytes = round_up(std::max<size_t>(bytes, 1), kLine);
  Ranges::iterator at;
  if (const auto fit = by_size_.lower_bound({bytes, 0}); fit != by_size_.end()) {
    at = free_.find(fit->second);
  } else {
    // The end moves; what is free before it goes along.
    const auto last = free_.empty() ? free_.end() : std::prev(free_.end());
    const bool touches = last != free_.end() && last->first + last->second.bytes == end_;
    const size_t begin = touches ? last->first : end_;
    if (bytes > reserved_ - begin || !commit(begin + bytes)) return {};
    const uint64_t last_use = touches ? last->second.last_use : 0;
    if (touches) erase(last);
    end_ = begin + bytes;
    at = insert(begin, {bytes, last_use});
  }
  const auto [begin, range] = *at;
  erase(at);
  if (range.bytes > bytes) insert(begin + bytes, {range.bytes - bytes, range.last_use});
  live_ += bytes;
  peak_ = std::max(peak_, live_);
  for (size_t page = begin / kPageBlock; page * kPageBlock < begin + bytes; page++) {
    resident_pages_ += !resident_[page];
    resident_[page] = true;
  }
  trim();
  uint64_t last_use = range.last_use;
  // In the order of the commands, since those before may still use the place under its old owner.
  if constexpr (kSanitized) last_use = enqueue_([data = base_ + begin, asked] { permit(data, asked); });
  return {base_ + begin, bytes, last_use};
}

void Arena::free(const Piece& piece) {
  live_ -= piece.bytes;
  size_t begin = static_cast<size_t>(piece.data - base_);
  Range range{piece.bytes, piece.last_use};
  if constexpr (kSanitized) range.last_use = enqueue_([piece] { forbid(piece.data, piece.bytes); });
  const auto join = [&](Ranges::iterator other) {
    begin = std::min(begin, other->first);
    range = {range.bytes + other->second.bytes, std::max(range.last_use, other->second.last_use)};
    erase(other);
  };
  if (const auto next = free_.find(begin + range.bytes); next != free_.end()) join(next);
  if (const auto next = free_.lower_bound(begin); next != free_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second.bytes == begin) join(previous);
  }
  insert(begin, range);
}

Arena::Ranges::iterator Arena::insert(size_t begin, Range range) {
  by_size_.insert({range.bytes, begin});
  return free_.insert({begin, range}).first;
}

void Arena::erase(Ranges::iterator at) {
  by_size_.erase({at->second.bytes, at->first});
  free_.erase(at);
}

// Lets everything before `end` be touched.
bool Arena::commit(size_t end) {
  end = round_up(end, kPageBlock);
  if (end <= committed_) return true;
  if (!commit_pages({base_ + committed_, end - committed_})) return false;
  forbid(base_ + committed_, end - committed_);
  committed_ = end;
  resident_.resize(end / kPageBlock);
  return true;
}

// Gives back whole pages of free ranges, the largest range first, until what is held is near the peak of what was in use at one time.
void Arena::trim() {
  const size_t bound = peak_ + peak_ / 32 + kSlack;
  for (auto size = by_size_.rbegin(); size != by_size_.rend() && resident_pages_ * kPageBlock > bound; ++size) {
    const auto [bytes, begin] = *size;
    const size_t first = round_up(begin, kPageBlock) / kPageBlock, last = (begin + bytes) / kPageBlock;
    size_t held = 0;
    for (size_t page = first; page < last; page++) {
      held += resident_[page];
      resident_[page] = false;
    }
    if (held == 0) continue;
    resident_pages_ -= held;
    const Pages pages{base_ + first * kPageBlock, (last - first) * kPageBlock};
    free_.at(begin).last_use = enqueue_([pages] { discard_pages(pages); });
  }
}

}  // namespace lowrank
