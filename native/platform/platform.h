// What the operating system gives: pages of memory, mapped files, temporary files. posix.cpp and windows.cpp say it in their system's
// words.
#pragma once
#include <cstddef>
#include <string>

namespace lowrank {

// Part of what was reserved, allocated or mapped.
struct Pages {
  char* data = nullptr;
  size_t bytes = 0;
};

// Borders of pages: what begins or ends between two of them shares a page with its neighbour.
size_t page_size();
// Bytes of memory that the machine has.
size_t physical_memory();
// Bytes of memory that the process holds; infinite where the system does not say.
double resident_bytes();

// Addresses without memory; data is nullptr where the process gets no more.
Pages reserve_addresses(size_t bytes);
void release_addresses(Pages reservation);
// Lets pages of a reservation be touched: they read as zeros, and take memory as they are touched. False where there is no more memory.
bool commit_pages(Pages pages);
// Takes the memory of committed pages back; they may be touched again, with contents that are undefined.
void discard_pages(Pages pages);

// Fresh pages that may be touched, from a border of `alignment` on where that serves huge pages; nullptr where there is no more memory.
void* allocate_pages(size_t bytes, size_t alignment);
void free_pages(void* data, size_t bytes);

// A range of a file in memory.
struct Mapping {
  char* data = nullptr;  // the first byte that was asked for, which need not begin a page
  size_t bytes = 0;
  void* keeper = nullptr;  // what the system wants to be closed behind it, or what looks after its pages
};

// Both throw std::runtime_error with the reason. Paths are UTF-8. Pages that cannot be had when they are used, since somebody has cut
// off the file or its disk fails, would end the process on POSIX (SIGBUS): they read as zeros instead, and `lost_file` says so.
Mapping map_file(const std::string& path, size_t offset, size_t bytes);
// Zeros in a file of `folder` that nobody else sees and that ends with the mapping; its room on the disk is taken at once.
Mapping map_temporary_file(const std::string& folder, size_t bytes);
void unmap(const Mapping& mapping);
// The file of a mapping that has lost pages, else "".
std::string lost_file(const Mapping& mapping);
// Whether any mapping of this process ever has.
bool any_file_lost();

// These take whole pages of a mapping; neither fetch_pages nor drop_pages minds a mapping that is gone.
// Reads them into memory, now or soon.
void fetch_pages(Pages pages);
// Writes what was changed of them to their file; throws std::runtime_error where that fails.
void write_pages(Pages pages);
// Takes their memory back; what was written comes again from the file.
void drop_pages(Pages pages);

}  // namespace lowrank
