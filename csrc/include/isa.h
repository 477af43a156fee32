// One binary for several instruction sets: the loader picks a variant of every function that REGFAST_CLONES marks or
// REGFAST_VERSIONS defines. What the latter defines learns from kFused whether its variant fuses multiplication and addition.
// A build for one machine names its variant in REGFAST_ISA, and compiles no other.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define REGFAST_MULTIVERSION 1
#define REGFAST_VERSION(isa, fused, signature, ...) \
  __attribute__((target(isa))) signature {          \
    constexpr bool kFused = fused;                  \
    __VA_ARGS__                                     \
  }
#if defined(REGFAST_ISA)
#define REGFAST_CLONES __attribute__((target("arch=" REGFAST_ISA)))
#define REGFAST_VERSIONS(signature, ...) REGFAST_VERSION("arch=" REGFAST_ISA, REGFAST_ISA_FUSES, signature, __VA_ARGS__)
#else
#define REGFAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define REGFAST_VERSIONS(signature, ...)                          \
  REGFAST_VERSION("arch=x86-64-v4", true, signature, __VA_ARGS__) \
  REGFAST_VERSION("arch=x86-64-v3", true, signature, __VA_ARGS__) \
  REGFAST_VERSION("default", false, signature, __VA_ARGS__)
#endif
#else
#define REGFAST_CLONES
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define REGFAST_FUSED true
#else
#define REGFAST_FUSED false
#endif
#define REGFAST_VERSIONS(signature, ...)      \
  signature {                                 \
    constexpr bool kFused = REGFAST_FUSED;    \
    __VA_ARGS__                               \
  }
#endif

// What a variant calls must be compiled with it, hence inlined.
#define REGFAST_INLINE inline __attribute__((always_inline))

// The same for what kernels on a GPU call too.
#if defined(__CUDACC__)
#define REGFAST_EVERYWHERE __host__ __device__ __forceinline__
#else
#define REGFAST_EVERYWHERE REGFAST_INLINE
#endif

#if defined(__clang__)
#define REGFAST_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define REGFAST_COMPILER "gcc " __VERSION__
#else
#define REGFAST_COMPILER "unknown"
#endif

namespace regfast {

inline const char* isa_variants() {
#if defined(REGFAST_MULTIVERSION) && defined(REGFAST_ISA)
  return REGFAST_ISA;
#elif defined(REGFAST_MULTIVERSION)
  return "x86-64-v4 (AVX-512), x86-64-v3 (AVX2), x86-64";
#elif defined(__aarch64__)
  return "aarch64 (NEON)";
#else
  return "the compiler's default";
#endif
}

inline const char* isa_active() {
#if defined(REGFAST_MULTIVERSION) && !defined(REGFAST_ISA)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
  return "x86-64";
#else
  return isa_variants();
#endif
}

}  // namespace regfast
