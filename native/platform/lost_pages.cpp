#if !defined(_WIN32)
#include "lost_pages.h"

#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <mutex>

#include "platform.h"

namespace lowrank {

namespace {

// A signal's handler can take no lock and no memory: watches are a list that only grows, whose free members are used again.
struct Watch {
  std::atomic<uintptr_t> begin{0}, end{0};  // a free one has end 0
  std::atomic<bool> lost{false};
  bool writable = false;
  std::string path;
  Watch* next = nullptr;
};

std::mutex mutex;
std::atomic<Watch*> watches{nullptr};
std::atomic<bool> any_lost{false};
struct sigaction previous;

// From the page of this address on, the mapping is memory without a file. libwayland mends its shared memory in the same way
// (wl_shm_buffer_begin_access): mmap is a plain system call on every POSIX system that there is a build for.
bool mend(uintptr_t address) {
  for (Watch* watch = watches.load(); watch; watch = watch->next) {
    const uintptr_t begin = watch->begin, end = watch->end;
    if (address < begin || address >= end) continue;
    const uintptr_t from = address - (address - begin) % page_size();
    const int access = PROT_READ | (watch->writable ? PROT_WRITE : 0);
    void* data = mmap(reinterpret_cast<void*>(from), end - from, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (data == MAP_FAILED) return false;
    watch->lost = true;
    any_lost = true;
    return true;
  }
  return false;
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  // One that another process has sent has no address.
  if (info->si_code > 0 && mend(reinterpret_cast<uintptr_t>(info->si_addr))) return;
  if (previous.sa_flags & SA_SIGINFO) return previous.sa_sigaction(signal, info, context);
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) return previous.sa_handler(signal);
  // As without this handler: the access is made again, or the signal is sent again.
  sigaction(signal, &previous, nullptr);
  if (info->si_code <= 0) raise(signal);
}

void listen() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &previous);
}

}  // namespace

void* watch_mapping(void* begin, size_t bytes, bool writable, const std::string& path) {
  const std::lock_guard lock(mutex);
  Watch* watch = watches;
  if (!watch) listen();
  while (watch && watch->end != 0) watch = watch->next;
  const bool fresh = !watch;
  if (fresh) watch = new Watch;
  watch->path = path;
  watch->writable = writable;
  watch->lost = false;
  watch->begin = reinterpret_cast<uintptr_t>(begin);
  watch->end = watch->begin + (bytes + page_size() - 1) / page_size() * page_size();
  if (fresh) {
    watch->next = watches;
    watches = watch;
  }
  return watch;
}

void forget_mapping(void* watch) {
  const std::lock_guard lock(mutex);
  static_cast<Watch*>(watch)->end = 0;
}

std::string lost_file(const Mapping& mapping) {
  const auto* watch = static_cast<const Watch*>(mapping.keeper);
  return watch->lost ? watch->path : "";
}

bool any_file_lost() { return any_lost; }

}  // namespace lowrank
#endif
