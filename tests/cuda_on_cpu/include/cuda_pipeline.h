#pragma once

#include "cuda_runtime.h"

inline void __pipeline_memcpy_async(void* shared, const void* global, size_t bytes) {
  emulator::copy_async(shared, global, bytes);
}
inline void __pipeline_commit() { emulator::commit_copies(); }
inline void __pipeline_wait_prior(size_t groups) { emulator::wait_for_copies(groups); }
