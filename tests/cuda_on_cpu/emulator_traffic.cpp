// Bytes that launches load from the arrays and store there. The compiler tells of every access of a kernel by the calls
// that -fsanitize=thread puts before them; its runtime is not linked, what it would define is here.
#include <cstddef>
#include <cstdint>

#include "emulator_memory.h"
#include "emulator_state.h"

namespace emulator {
namespace {

struct Traffic {
  int64_t loaded = 0, again = 0, stored = 0, launches = 0;  // `again`: of those loaded, what the same launch had loaded
};
Traffic traffic;
bool counting = false;

Array* array_at(const void* address) {
  const auto* at = static_cast<const unsigned char*>(address);
  for (Array& array : arrays) {
    if (at >= array.begin && at < array.begin + array.bytes) return &array;
  }
  return nullptr;
}

// Lanes of a warp that load the same address by the same instruction do so at once: that counts once.
bool is_shared(uint64_t& last, const void* instruction) {
  const uint64_t warp = (uint64_t{block->index.x} << 5 | current / 32) ^ reinterpret_cast<uintptr_t>(instruction) << 24;
  const uint64_t now = warp << 5 | current % 32;
  const bool shared = last >> 5 == now >> 5 && last != now;
  last = now;
  return shared;
}

void count_store(const void* address, size_t bytes) {
  if (counting && array_at(address) != nullptr) traffic.stored += static_cast<int64_t>(bytes);
}

}  // namespace

void begin_traffic() {
  if (!counting) return;
  ++traffic.launches;
  for (Array& array : arrays) {
    array.loaded.assign(array.bytes, false);
    array.last_load.assign(array.bytes / 4 + 1, 0);
  }
}

void count_load(const void* address, size_t bytes, const void* instruction) {
  Array* array = counting ? array_at(address) : nullptr;
  if (array == nullptr) return;
  const auto first = static_cast<size_t>(static_cast<const unsigned char*>(address) - array->begin);
  if (is_shared(array->last_load[first / 4], instruction)) return;
  for (size_t at = first; at < first + bytes; ++at) {
    traffic.again += array->loaded[at];
    array->loaded[at] = true;
  }
  traffic.loaded += static_cast<int64_t>(bytes);
}

}  // namespace emulator

#define REGFAST_ACCESS(size)                                                                                          \
  void __tsan_read##size(const void* at) { emulator::count_load(at, size, __builtin_return_address(0)); }             \
  void __tsan_unaligned_read##size(const void* at) { emulator::count_load(at, size, __builtin_return_address(0)); } \
  void __tsan_write##size(const void* at) { emulator::count_store(at, size); }                                        \
  void __tsan_unaligned_write##size(const void* at) { emulator::count_store(at, size); }

extern "C" {

// Starts to count, from 0.
void emulator_count() {
  emulator::traffic = {};
  emulator::counting = true;
}

// Stops, and says how many bytes were loaded, loaded again and stored, by how many launches.
void emulator_counted(int64_t* found) {
  emulator::counting = false;
  found[0] = emulator::traffic.loaded;
  found[1] = emulator::traffic.again;
  found[2] = emulator::traffic.stored;
  found[3] = emulator::traffic.launches;
}

REGFAST_ACCESS(1)
REGFAST_ACCESS(2)
REGFAST_ACCESS(4)
REGFAST_ACCESS(8)
REGFAST_ACCESS(16)
void __tsan_read_range(const void* at, size_t bytes) { emulator::count_load(at, bytes, __builtin_return_address(0)); }
void __tsan_write_range(const void* at, size_t bytes) { emulator::count_store(at, bytes); }
void __tsan_init() {}
uint8_t __tsan_atomic8_load(const volatile uint8_t* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
}
