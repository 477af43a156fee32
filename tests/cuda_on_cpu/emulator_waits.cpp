// What a running thread calls: barriers, collectives of a warp, clusters, asynchronous copies. See emulator.h.
#include <algorithm>
#include <cstring>

#include "emulator_memory.h"
#include "emulator_state.h"

namespace emulator {
namespace {

void arrive(Thread& thread, State state, Site where) {
  thread.state = state;
  thread.where = where;
  --block->ready;
}

void wake(Block& of, Thread& thread) {
  thread.state = State::kReady;
  ++of.ready;
}

// Everyone still there waits for the block: go on.
void release_block() {
  if (block->at_barrier == 0 || block->at_barrier < block->alive) return;
  block->at_barrier = 0;
  const Thread* first = nullptr;
  for (const Thread& thread : block->threads) {
    if (thread.state != State::kBlock) continue;
    if (first == nullptr) first = &thread;
    if (line(first->where) != line(thread.where)) {
      fail("barriers of one block on different lines: %s at %s, %s at %s", place(*block, *first).c_str(),
           line(first->where).c_str(), place(*block, thread).c_str(), line(thread.where).c_str());
    }
  }
  uint64_t predicates = 0;
  for (const Thread& thread : block->threads) predicates += thread.state == State::kBlock && thread.value != 0;
  for (Thread& thread : block->threads) {
    if (thread.state != State::kBlock) continue;
    thread.value = predicates;
    wake(*block, thread);
  }
}

void release_cluster() {
  for (const auto& member : block->cluster->blocks) {
    if (member->at_cluster < member->alive) return;
  }
  for (const auto& member : block->cluster->blocks) {
    member->at_cluster = 0;
    for (Thread& thread : member->threads) {
      if (thread.state == State::kCluster) wake(*member, thread);
    }
  }
}

// What lane `lane` gets of a collective whose lanes, the `present` ones of `first`, are all there.
uint64_t result_of(size_t first, unsigned present, int lane) {
  const Thread& own = block->threads[first + lane];
  const int segment = lane / own.width * own.width;
  int source = lane;
  switch (own.kind) {
    case Collective::kSync: return 0;
    case Collective::kBallot: {
      unsigned votes = 0;
      for (int other = 0; other < 32; ++other) {
        if ((present >> other & 1) && block->threads[first + other].value != 0) votes |= 1u << other;
      }
      return votes;
    }
    case Collective::kIndex: source = segment + (own.parameter & (own.width - 1)); break;
    case Collective::kUp: source = lane - own.parameter; break;
    case Collective::kDown: source = lane + own.parameter; break;
    case Collective::kXor: source = lane ^ own.parameter; break;
  }
  if (own.kind == Collective::kUp ? source < segment : source >= segment + own.width) source = lane;
  if (!(present >> source & 1)) {
    fail("a shuffle at %s: %s reads lane %d, which takes no part", line(own.where).c_str(), place(*block, own).c_str(),
         source);
  }
  return block->threads[first + source].value;
}

// Let the collective that a lane waits for go on if all its lanes have come.
void release_warp(size_t first, size_t asking_lane) {
  const Thread& asking = block->threads[first + asking_lane];
  if (asking.state != State::kWarp) return;
  const size_t lanes = std::min<size_t>(32, block->threads.size() - first);
  unsigned present = 0;
  for (size_t lane = 0; lane < lanes; ++lane) {
    const Thread& thread = block->threads[first + lane];
    if (!(asking.mask >> lane & 1) || thread.state == State::kDone) continue;
    if (thread.state != State::kWarp || thread.mask != asking.mask || thread.kind != asking.kind) return;
    present |= 1u << lane;
  }
  uint64_t results[32];
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (present >> lane & 1) results[lane] = result_of(first, present, static_cast<int>(lane));
  }
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (!(present >> lane & 1)) continue;
    block->threads[first + lane].value = results[lane];
    wake(*block, block->threads[first + lane]);
  }
}

void finish_copies(std::vector<Copy>& copies) {
  for (const Copy& copy : copies) memcpy(copy.destination, copy.source, copy.bytes);
  copies.clear();
}

}  // namespace

void release_waiting() {
  const size_t first = current / 32 * 32;
  for (size_t at = first; at < std::min(first + 32, block->threads.size()); ++at) release_warp(first, at - first);
  release_block();
  release_cluster();
}

int barrier(int predicate, Site where) {
  Thread& thread = block->threads[current];
  thread.value = predicate != 0;
  arrive(thread, State::kBlock, where);
  ++block->at_barrier;
  release_block();
  leave();
  return static_cast<int>(block->threads[current].value);
}

uint64_t exchange(Collective kind, unsigned mask, uint64_t value, int parameter, int width, Site where) {
  Thread& thread = block->threads[current];
  if (!(mask >> (current % 32) & 1)) fail("a collective at %s without its own lane in the mask", line(where).c_str());
  thread.kind = kind;
  thread.mask = mask;
  thread.value = value;
  thread.parameter = parameter;
  thread.width = width;
  arrive(thread, State::kWarp, where);
  release_warp(current / 32 * 32, current % 32);
  leave();
  return block->threads[current].value;
}

void cluster_barrier(Site where) {
  arrive(block->threads[current], State::kCluster, where);
  ++block->at_cluster;
  release_cluster();
  leave();
}

unsigned cluster_rank() { return block->rank; }
unsigned cluster_size() { return launch->cluster; }

void* cluster_address(void* local, unsigned rank) {
  if (rank >= launch->cluster) fail("the cluster has no block %u", rank);
  const Block& other = *block->cluster->blocks[rank];
  if (other.shared == nullptr) fail("block %u of the cluster may not have begun", rank);
  if (other.alive == 0) fail("block %u of the cluster has ended", rank);
  return other.shared + (static_cast<unsigned char*>(local) - block->shared);
}

void give_way() {
  if (!chance(4)) return;
  others_first = true;
  leave();
}

void copy_async(void* destination, const void* source, size_t bytes) {
  if ((reinterpret_cast<uintptr_t>(destination) | reinterpret_cast<uintptr_t>(source)) % bytes != 0) {
    fail("an asynchronous copy of %zu bytes between addresses that are no multiples of that", bytes);
  }
  count_load(source, bytes, __builtin_return_address(0));
  std::vector<Copy> copies{{destination, source, bytes}};
  if (chance(2)) {
    finish_copies(copies);
  } else {
    block->threads[current].copies.push_back(copies.front());
  }
}

void commit_copies() {
  Thread& thread = block->threads[current];
  thread.groups.push_back(std::move(thread.copies));
  thread.copies.clear();
}

void wait_for_copies(size_t groups) {
  Thread& thread = block->threads[current];
  while (thread.groups.size() > groups) {
    finish_copies(thread.groups.front());
    thread.groups.pop_front();
  }
}

}  // namespace emulator
