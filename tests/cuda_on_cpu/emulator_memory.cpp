#include "emulator_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "emulator.h"

namespace emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr unsigned char kPoison = 0xff;  // NaN in every format

}  // namespace

std::string describe(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (const Array& array : arrays) {
    const auto pages = reinterpret_cast<uintptr_t>(array.pages), begin = reinterpret_cast<uintptr_t>(array.begin);
    if (at < pages || at >= pages + array.inside + 2 * kPage) continue;
    return at < begin ? std::to_string(begin - at) + " bytes before '" + array.name + "'"
                      : std::to_string(at - begin - array.bytes) + " bytes past the end of '" + array.name + "'";
  }
  return "address " + std::to_string(at) + ", near no array";
}

}  // namespace emulator

using emulator::arrays;
using emulator::kPage;
using emulator::kPoison;

extern "C" {

// `bytes` of poison, either ending with the page (`shift` < 0) or beginning `shift` bytes behind the start of one.
void* emulator_allocate(const char* name, size_t bytes, int shift) {
  const size_t before = shift < 0 ? 0 : static_cast<size_t>(shift);
  const size_t inside = std::max<size_t>(1, (before + bytes + kPage - 1) / kPage) * kPage;
  void* pages = mmap(nullptr, inside + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) abort();
  unsigned char* first = static_cast<unsigned char*>(pages) + kPage;
  if (mprotect(first, inside, PROT_READ | PROT_WRITE) != 0) abort();
  memset(first, kPoison, inside);
  unsigned char* begin = shift < 0 ? first + inside - bytes : first + before;
  arrays.push_back({name, static_cast<unsigned char*>(pages), begin, inside, bytes, {}, {}});
  return begin;
}

// Frees all arrays; the name of one beside which something was written, or "".
const char* emulator_free_all() {
  static std::string damaged;
  damaged.clear();
  for (const auto& array : arrays) {
    const unsigned char* first = array.pages + kPage;
    const auto intact = [](unsigned char byte) { return byte == kPoison; };
    if (!std::all_of(first, static_cast<const unsigned char*>(array.begin), intact) ||
        !std::all_of(static_cast<const unsigned char*>(array.begin) + array.bytes, first + array.inside, intact)) {
      damaged = array.name;
    }
    munmap(array.pages, array.inside + 2 * kPage);
  }
  arrays.clear();
  return damaged.c_str();
}

void emulator_machine(int processors, int shared_memory, int clusters, int order, uint64_t seed) {
  emulator::machine = {processors, shared_memory, clusters != 0, static_cast<emulator::Order>(order), seed};
}

const char* emulator_error() { return emulator::error(); }
}
