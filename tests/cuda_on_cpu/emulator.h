// Runs CUDA kernels on the CPU, to check them where no GPU is at hand: what they compute, where they read and write,
// and whether their result depends on the order in which threads happen to run. It says nothing about speed.
//
// A kernel family is added in three steps:
//   1. Kernels and the functions that launch them lie in a header of csrc/include without torch; launches go through
//      cudaLaunchKernelEx (cuda_rows.cuh has `launch` for that), since <<<>>> is no C++. Dynamic shared memory is
//      called `extern __shared__ __align__(16) unsigned char memory[]`, in a function of namespace regfast::cuda.
//   2. A .cpp here includes that header and exports the launch functions as extern "C", each of which returns
//      `emulator::status(error)`.
//   3. A pytest file builds it (`build.library("my_family")` compiles my_family.cpp with the emulator, against include/
//      and csrc/include/), puts every array into `library.memory()`, whose pages end where the array ends, and calls
//      through `library.check(...)` once per order of `build.ORDERS`. `library.counted()` counts the bytes that launches
//      load and store.
// What a kernel uses and include/ lacks is added there, with the meaning of the CUDA Programming Guide.
//
// How it works. Every CUDA thread is a fiber; a block's fibers share one OS thread, so that __shared__ is thread_local
// and each block has its own; only one OS thread runs at a time. A fiber runs until it has to wait for others
// (__syncthreads, shuffles, votes, a cluster's sync) or reaches an atomic or a fence; the next one is the first, the
// last or a random one of those that can run, as the machine's `Order` and seed say. A block's shared memory is NaN when
// it starts. Copies by cp.async arrive at once or only when waited for. Errors end the launch and say where: threads
// that wait for one another for ever, barriers on different lines, shuffles from lanes that are not there, stray
// addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

namespace emulator {

struct Size3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Size3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr size_t count() const { return size_t{x} * y * z; }
};

using Site = std::source_location;

enum class Order { kForward, kBackward, kRandom };

// The GPU that launches believe to run on, and how its threads take turns.
struct Machine {
  int processors = 4;
  int shared_memory = 227 * 1024;  // a block may ask for
  bool clusters = true;
  Order order = Order::kForward;
  uint64_t seed = 0;
};
extern Machine machine;

struct Launch {
  const void* kernel;
  Size3 grid, block;
  unsigned cluster = 1;  // blocks along x
  size_t shared_bytes = 0;
};

// Runs `body` once as every thread of the launch; false if that went wrong, see `error`.
bool run(const Launch& launch, const std::function<void()>& body);
const char* error();
void refuse(const char* why);  // a launch that the runtime would not accept

// For the running thread: wait for its block; then how many of the block's threads gave a predicate that is not 0.
int barrier(int predicate, Site where);

enum class Collective { kSync, kIndex, kUp, kDown, kXor, kBallot };
// For the running thread: give `value` to its warp, wait for the lanes in `mask`, take what the collective says.
uint64_t exchange(Collective kind, unsigned mask, uint64_t value, int parameter, int width, Site where);

void cluster_barrier(Site where);
unsigned cluster_rank();
unsigned cluster_size();
void* cluster_address(void* local, unsigned rank);  // shared memory of this block as block `rank` of the cluster has it

void give_way();  // others may run here

void copy_async(void* destination, const void* source, size_t bytes);
void commit_copies();
void wait_for_copies(size_t groups);  // until at most the last so many groups are under way

// Dynamic shared memory a kernel may use: 48 KB unless asked for.
void allow_shared_memory(const void* kernel, size_t bytes);

// Something is wrong in the running thread; does not return.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emulator

// What the running thread is. Set before each of its turns.
extern emulator::Size3 threadIdx, blockIdx, blockDim, gridDim;
