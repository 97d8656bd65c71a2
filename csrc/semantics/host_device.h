// Functions marked so compile for the host and, under nvcc, for the device.
// `static` gives them internal linkage: a shared inline one compiled for AVX-512 could become the linker's copy for
// all. SK_ALWAYS_INLINE is for formulas on vectors, of whose results the caller uses a part.
#pragma once

#ifdef __CUDACC__
#define SK_HOST_DEVICE static inline __host__ __device__
#define SK_ALWAYS_INLINE static __forceinline__ __host__ __device__
#else
#define SK_HOST_DEVICE static inline
#define SK_ALWAYS_INLINE static inline __attribute__((always_inline))
#endif
