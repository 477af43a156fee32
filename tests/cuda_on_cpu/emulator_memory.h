// Arrays for kernels, between pages that nobody may touch; the bytes left over beside an array are checked for writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

// A page nobody may touch, `inside` bytes, another such page; of the bytes between them `bytes` are the array's.
struct Array {
  std::string name;
  unsigned char *pages, *begin;
  size_t inside, bytes;
  std::vector<bool> loaded;        // by the running launch; empty unless somebody counts, see emulator_traffic.cpp
  std::vector<uint64_t> last_load;  // of each four bytes: who, by which instruction
};
inline std::vector<Array> arrays;

std::string describe(const void* address);  // where it lies relative to the arrays

void begin_traffic();                                                         // of a launch
void count_load(const void* address, size_t bytes, const void* instruction);  // for the running thread

}  // namespace emulator
