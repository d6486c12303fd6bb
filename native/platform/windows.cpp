#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#define PSAPI_VERSION 2  // in kernel32.dll
#include <windows.h>

#include <psapi.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>

#include "platform.h"

namespace lowrank {

namespace {

SYSTEM_INFO system_info() {
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return info;
}

std::wstring wide(const std::string& text) {
  const int length = MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), nullptr, 0);
  std::wstring result(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), result.data(), length);
  return result;
}

// What failed last, in the system's words.
std::runtime_error last_error(const char* what = "") {
  const DWORD error = GetLastError();
  wchar_t text[256];
  constexpr DWORD flags = FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS | FORMAT_MESSAGE_MAX_WIDTH_MASK;
  const DWORD length = FormatMessageW(flags, nullptr, error, 0, text, static_cast<DWORD>(std::size(text)), nullptr);
  char utf8[4 * std::size(text)];
  const int bytes = WideCharToMultiByte(CP_UTF8, 0, text, static_cast<int>(length), utf8, static_cast<int>(sizeof utf8), nullptr, nullptr);
  std::string result(utf8, static_cast<size_t>(bytes));
  while (!result.empty() && result.back() == ' ') result.pop_back();
  return std::runtime_error(what + result + " (system error " + std::to_string(error) + ")");
}

DWORD high(uint64_t n) { return static_cast<DWORD>(n >> 32); }
DWORD low(uint64_t n) { return static_cast<DWORD>(n); }

class Handle {
 public:
  explicit Handle(HANDLE handle) : handle_(handle == INVALID_HANDLE_VALUE ? nullptr : handle) {}
  ~Handle() {
    if (handle_) CloseHandle(handle_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  explicit operator bool() const { return handle_ != nullptr; }
  HANDLE get() const { return handle_; }
  HANDLE keep() { return std::exchange(handle_, nullptr); }

 private:
  HANDLE handle_;
};

// A file of the folder that goes when its handle is closed. Names are taken by nobody else: the process's number and a count are in them.
HANDLE create_temporary(const std::string& folder) {
  static std::atomic<unsigned> count{0};
  for (;;) {
    const std::string path = folder + "\\.paged-" + std::to_string(GetCurrentProcessId()) + "-" + std::to_string(count++);
    const HANDLE file = CreateFileW(wide(path).c_str(), GENERIC_READ | GENERIC_WRITE, FILE_SHARE_DELETE, nullptr, CREATE_NEW,
                                    FILE_FLAG_DELETE_ON_CLOSE, nullptr);
    if (file != INVALID_HANDLE_VALUE || GetLastError() != ERROR_FILE_EXISTS) return file;
  }
}

}  // namespace

size_t page_size() { return system_info().dwPageSize; }

size_t physical_memory() {
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof status;
  return GlobalMemoryStatusEx(&status) ? static_cast<size_t>(status.ullTotalPhys) : 0;
}

double resident_bytes() {
  PROCESS_MEMORY_COUNTERS counters{};
  return GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters) ? static_cast<double>(counters.WorkingSetSize) : INFINITY;
}

Pages reserve_addresses(size_t bytes) {
  void* data = VirtualAlloc(nullptr, bytes, MEM_RESERVE, PAGE_NOACCESS);
  return data ? Pages{static_cast<char*>(data), bytes} : Pages{};
}

void release_addresses(Pages reservation) { VirtualFree(reservation.data, 0, MEM_RELEASE); }

bool commit_pages(Pages pages) { return VirtualAlloc(pages.data, pages.bytes, MEM_COMMIT, PAGE_READWRITE) != nullptr; }

void discard_pages(Pages pages) { DiscardVirtualMemory(pages.data, pages.bytes); }

// Huge pages want a privilege here: the system's own border, 64 KiB, serves as well.
void* allocate_pages(size_t bytes, size_t) { return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void free_pages(void* data, size_t) { VirtualFree(data, 0, MEM_RELEASE); }

Mapping map_file(const std::string& path, size_t offset, size_t bytes) {
  constexpr DWORD share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
  const Handle file(CreateFileW(wide(path).c_str(), GENERIC_READ, share, nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr));
  LARGE_INTEGER size{};
  if (!file || !GetFileSizeEx(file.get(), &size)) throw last_error();
  const auto length = static_cast<size_t>(size.QuadPart);
  if (GetFileType(file.get()) != FILE_TYPE_DISK || offset > length || bytes > length - offset) 
    throw std::runtime_error("not a file that holds these bytes");
  const Handle section(CreateFileMappingW(file.get(), nullptr, PAGE_READONLY, 0, 0, nullptr));
  if (!section) throw last_error();
  // A view begins on a border of 64 KiB. It keeps the section, and the section the file, after their handles are closed.
  const size_t before = offset % system_info().dwAllocationGranularity, begin = offset - before;
  void* data = MapViewOfFile(section.get(), FILE_MAP_READ, high(begin), low(begin), before + bytes);
  if (!data) throw last_error();
  return {static_cast<char*>(data) + before, bytes};
}

Mapping map_temporary_file(const std::string& folder, size_t bytes) {
  Handle file(create_temporary(folder));
  if (!file) throw last_error("no file can be made: ");
  LARGE_INTEGER end{};
  end.QuadPart = static_cast<LONGLONG>(bytes);
  if (!SetFilePointerEx(file.get(), end, nullptr, FILE_BEGIN) || !SetEndOfFile(file.get())) throw last_error("the disk does not give it: ");
  const Handle section(CreateFileMappingW(file.get(), nullptr, PAGE_READWRITE, 0, 0, nullptr));
  void* data = section ? MapViewOfFile(section.get(), FILE_MAP_READ | FILE_MAP_WRITE, 0, 0, bytes) : nullptr;
  if (!data) throw last_error("it cannot be mapped: ");
  // A file that is mapped cannot be removed, so that its handle is closed last.
  return {static_cast<char*>(data), bytes, file.keep()};
}

void unmap(const Mapping& mapping) {
  MEMORY_BASIC_INFORMATION view{};
  if (VirtualQuery(mapping.data, &view, sizeof view) != 0) UnmapViewOfFile(view.AllocationBase);
  if (mapping.keeper) CloseHandle(mapping.keeper);
}

// The system keeps others from cutting off a file that is mapped.
std::string lost_file(const Mapping&) { return {}; }

bool any_file_lost() { return false; }

void fetch_pages(Pages pages) {
  WIN32_MEMORY_RANGE_ENTRY range{pages.data, pages.bytes};
  PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0);
}

void write_pages(Pages pages) {
  if (!FlushViewOfFile(pages.data, pages.bytes)) throw last_error("paged memory cannot be written: ");
}

// Pages that are unlocked without having been locked leave the working set.
void drop_pages(Pages pages) { VirtualUnlock(pages.data, pages.bytes); }

}  // namespace lowrank
#endif
