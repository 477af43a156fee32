// How a launch of the loss shares out its rows: plain C++, to be looked at without a GPU (benchmarks/gpu/plan.py).
#pragma once

#include <cstdint>

namespace regfast::cuda {

constexpr int kMaxCluster = 8;  // the largest size every device with clusters must accept

// What launches ask of a device.
struct Device {
  int ordinal;
  int processors;
  int shared_memory;  // a block may ask for
  bool clusters;
};

constexpr int kShortColumns = 32;
constexpr int kShortRows = 128;     // a block
constexpr int kGroupThreads = 128;  // a block of groups
constexpr int kGroupBytes = 4096;   // of the longest row that a group takes

// Blocks of groups that a processor's registers hold. A dense target that is wider than its logits takes more of them, and
// so do long rows in 16 bits.
constexpr int group_blocks(int group, int logit_bytes, int dense_bytes) {
  return dense_bytes > logit_bytes || (group == 32 && logit_bytes == 2) ? 6 : 7;
}

// Blocks of 256 threads that a processor's registers hold.
constexpr int long_blocks(bool dense) { return dense ? 2 : 3; }

// Elements of shared memory for `columns` of `size` bytes: room for what lies before the first 16-byte boundary, whole
// vectors.
constexpr int slots_for(int columns, int size) { return (columns + 2 * (16 / size) - 2) / (16 / size) * (16 / size); }

struct LossPlan {
  int group = 0;  // threads of a warp that share a row, two rows of theirs in shared memory; 0: a team shares it
  int team_size = 1;
  int slice_columns = 0;  // of a row, a block
  int threads = 256;
  int shared_bytes = 0;
  bool resident = true;  // the slice lies in shared memory; else it is read twice
  int fit = 1;           // blocks that a processor holds at a time
  int blocks = 0;        // that run at once, or fewer; 0: as many clusters as the runtime says
};

// Every block runs at once: none waits for a place, and shares of the mean are few. `dense_bytes` is the size of an entry
// of the target, 0 for labels.
inline LossPlan plan_loss(const Device& device, int64_t batch, int columns, int logit_bytes, int dense_bytes) {
  constexpr int kSliceBytes = 48 * 1024;  // several blocks on a processor: one computes while another fetches
  constexpr int kSpareBytes = 4 * 1024;   // static shared memory, and what the driver keeps
  const auto bytes = [&](int slice) {
    return static_cast<int64_t>(slots_for(slice, logit_bytes)) * logit_bytes +
           (dense_bytes != 0 ? static_cast<int64_t>(slots_for(slice, dense_bytes)) * dense_bytes : 0);
  };
  LossPlan plan;
  plan.slice_columns = columns;
  const auto fill = [&](int by_registers, int64_t needed) {
    const int by_memory = device.shared_memory / (plan.shared_bytes + 2048);  // with the static part and the driver's
    plan.fit = by_memory < 1 ? 1 : by_memory < by_registers ? by_memory : by_registers;
    const int64_t most = static_cast<int64_t>(device.processors) * plan.fit;
    if (plan.team_size == 1) plan.blocks = static_cast<int>(needed < most ? needed : most);
    return plan;
  };
  if (bytes(columns) <= kGroupBytes) {
    plan.group = columns * logit_bytes <= 32 * 16 ? 16 : 32;  // at most two vectors a thread, or a warp
    plan.threads = kGroupThreads;
    const int rows = plan.threads / plan.group;
    plan.shared_bytes = static_cast<int>(2 * rows * bytes(columns));
    return fill(group_blocks(plan.group, logit_bytes, dense_bytes), (batch + rows - 1) / rows);
  }
  if (device.clusters) {
    // Smaller slices where a row is large, or where there are fewer rows than would fill the processors.
    while (plan.team_size < kMaxCluster && (bytes(plan.slice_columns) > kSliceBytes ||
                                            (plan.slice_columns > 4096 && batch * plan.team_size < device.processors))) {
      plan.team_size *= 2;
      plan.slice_columns = (columns + plan.team_size - 1) / plan.team_size;
    }
  }
  plan.resident = bytes(plan.slice_columns) <= device.shared_memory - kSpareBytes;
  plan.shared_bytes = plan.resident ? static_cast<int>(bytes(plan.slice_columns)) : 0;
  if (plan.slice_columns <= 2048) plan.threads = 128;
  return fill(long_blocks(dense_bytes != 0) * (256 / plan.threads), batch);
}

// Entries that Total::partial needs: a share for every block or team of the launch.
inline int64_t most_shares(const Device& device, int64_t batch) {
  const int64_t teams = static_cast<int64_t>(device.processors) * group_blocks(16, 4, 0);
  const int64_t blocks = (batch + kShortRows - 1) / kShortRows;
  return teams > blocks ? teams : blocks;
}

}  // namespace regfast::cuda
