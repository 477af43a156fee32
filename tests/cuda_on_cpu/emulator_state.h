// What the emulator's files share: the state of a launch.
#pragma once

#include <setjmp.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "emulator.h"

namespace emulator {

constexpr unsigned char kPoison = 0xff;  // NaN in every format

enum class State { kReady, kBlock, kCluster, kWarp, kDone };

struct Copy {
  void* destination;
  const void* source;
  size_t bytes;
};

struct Fiber {
  sigjmp_buf context;
  char* stack = nullptr;
  bool created = false;
};

struct Thread {
  State state = State::kReady;
  Size3 index;
  Site where;
  Collective kind{};
  unsigned mask = 0;
  uint64_t value = 0;
  int parameter = 0, width = 32;
  std::deque<std::vector<Copy>> groups;  // committed, the oldest first
  std::vector<Copy> copies;              // not committed yet
};

struct Cluster;

struct Block {
  Size3 index;
  unsigned rank = 0;
  Cluster* cluster = nullptr;
  struct Worker* worker = nullptr;
  std::vector<Thread> threads;
  size_t alive = 0, ready = 0, at_barrier = 0, at_cluster = 0;
  unsigned char* shared = nullptr;  // all shared memory of this OS thread, once the block has begun
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
};

// An OS thread, which runs one block at a time.
struct Worker {
  std::binary_semaphore wake{0};
  Block* block = nullptr;
  std::vector<Fiber> fibers;
  sigjmp_buf scheduler;
  std::thread thread;
};

// One launch at a time, and one OS thread at a time: nothing here needs a lock.
inline const Launch* launch = nullptr;
inline std::mt19937_64 generator;
inline Worker* worker = nullptr;  // the one that runs
inline Block* block = nullptr;
inline bool others_first = false;  // the running thread would let other blocks run too
inline size_t current = 0;  // thread of the block; its fiber has the same number

inline bool chance(unsigned one_in) { return machine.order == Order::kRandom && generator() % one_in == 0; }

std::string place(const Block& of, const Thread& thread);
std::string line(const Site& where);

void leave();            // from a fiber to its scheduler; comes back with the fiber's next turn
void check_guard();      // of dynamic shared memory, when a block ends
void release_waiting();  // a thread has ended: who waited for it need not wait longer

}  // namespace emulator
