#include "gradient_memory.h"

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/alloc_cpu.h>

#include <cstring>
#include <mutex>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define REGFAST_FORKS
#endif

namespace regfast {
namespace {

constexpr size_t kPage = size_t(1) << 21;       // 2 MB: a fault for each of 4 kB costs as much as the arithmetic
constexpr size_t kSmallest = size_t(1) << 18;   // below, the C library keeps memory itself
constexpr size_t kMostKept = size_t(256) << 20;  // bytes that wait for a next gradient, at most

struct Block {
  void* data;
  size_t bytes;
};

// The C library gives blocks of megabytes back to the system and takes them anew at every step; the system clears them.
class KeptMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = take(bytes);
    if (block == nullptr) block = new Block{fresh(bytes), bytes};
    return {block->data, block, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }  // the context is not the data

  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

  // Never destroyed: gradients may be freed while the process exits.
  static KeptMemory& instance() {
    static auto& memory = *new KeptMemory;
    return memory;
  }

 private:
  KeptMemory() {
#if defined(REGFAST_FORKS)
    // A child of fork has none of the threads that may hold the lock: whoever forks holds it meanwhile.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); }, [] { instance().mutex_.unlock(); });
#endif
  }

  static void* fresh(size_t bytes) {
    void* data = c10::alloc_cpu(bytes);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const auto start = reinterpret_cast<uintptr_t>(data);
    const uintptr_t first = (start + kPage - 1) / kPage * kPage, end = (start + bytes) / kPage * kPage;
    if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // no matter if it fails
#endif
    return data;
  }

  // The smallest block that holds `bytes` and is at most twice as large, if one is there.
  Block* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto best = kept_.end();
    for (auto at = kept_.begin(); at != kept_.end(); ++at) {
      const bool fits = (*at)->bytes >= bytes && (*at)->bytes / 2 <= bytes;
      if (fits && (best == kept_.end() || (*at)->bytes < (*best)->bytes)) best = at;
    }
    if (best == kept_.end()) return nullptr;
    Block* block = *best;
    kept_.erase(best);
    total_ -= block->bytes;
    return block;
  }

  static void release(void* context) { instance().keep(static_cast<Block*>(context)); }

  // Those that waited longest go first.
  void keep(Block* block) {
    std::vector<Block*> dropped;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      kept_.push_back(block);
      total_ += block->bytes;
      while (total_ > kMostKept) {
        total_ -= kept_.front()->bytes;
        dropped.push_back(kept_.front());
        kept_.erase(kept_.begin());
      }
    }
    for (Block* old : dropped) {
      c10::free_cpu(old->data);
      delete old;
    }
  }

  std::mutex mutex_;
  std::vector<Block*> kept_;  // oldest first
  size_t total_ = 0;
};

}  // namespace

at::Tensor gradient_like(const at::Tensor& tensor) {
  const size_t bytes = size_t(tensor.numel()) * tensor.element_size();
  // Where torch is asked to fill uninitialized memory, it shall.
  if (bytes < kSmallest || at::globalContext().deterministicAlgorithms()) return at::empty(tensor.sizes(), tensor.options());
  return at::detail::empty_generic(tensor.sizes(), &KeptMemory::instance(),
                                   c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.scalar_type(), std::nullopt);
}

}  // namespace regfast
