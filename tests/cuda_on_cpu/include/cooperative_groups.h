#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

struct cluster_group {
  static void sync(emulator::Site where = emulator::Site::current()) { emulator::cluster_barrier(where); }
  static unsigned block_rank() { return emulator::cluster_rank(); }
  static unsigned num_blocks() { return emulator::cluster_size(); }
  template <typename T>
  static T* map_shared_rank(T* local, unsigned rank) {
    return static_cast<T*>(emulator::cluster_address(local, rank));
  }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
