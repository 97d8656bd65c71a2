#include "cpu/kernels.h"

#include <dlfcn.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace seo_kernels::cpu {
namespace {

struct Capability {
  const char* name;
  bool (*supported)();
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

// The kernel lets a process use tile registers when it asks.
bool has_amx_bf16() {
#if defined(__linux__)
  constexpr unsigned kBFloat16Tiles = 1u << 22, kTiles = 1u << 24;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & kBFloat16Tiles) == 0 || (d & kTiles) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#else
bool has_amx_bf16() { return false; }
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_avx512_bf16() { return false; }
#endif

constexpr std::array<Capability, 5> kCapabilities{{{"amx_bf16", has_amx_bf16},
                                                   {"avx512_bf16", has_avx512_bf16},
                                                   {"avx512", has_avx512},
                                                   {"avx2", has_avx2},
                                                   {"portable", [] { return true; }}}};

std::string library_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&library_folder), &info) == 0) {
    throw std::runtime_error("seo_kernels: cannot tell where its own library lies");
  }
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

// The first capability to try: the environment variable's, or the best.
size_t first_capability() {
  const char* cap = std::getenv("SEO_KERNELS_CPU_CAPABILITY");
  if (!cap || !*cap) return 0;
  std::string names;
  for (size_t n = 0; n < kCapabilities.size(); ++n) {
    if (std::string(cap) == kCapabilities[n].name) return n;
    names += std::string(n ? ", " : "") + kCapabilities[n].name;
  }
  throw std::invalid_argument("SEO_KERNELS_CPU_CAPABILITY is '" + std::string(cap) + "', expected one of " + names);
}

const Kernels& load_kernels() {
  std::string tried;
  for (size_t n = first_capability(); n < kCapabilities.size(); ++n) {
    if (!kCapabilities[n].supported()) continue;
    const std::string path = library_folder() + "libseo_kernels_cpu_" + kCapabilities[n].name + ".so";
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      tried += std::string("; ") + dlerror();
      continue;
    }
    using Entry = const Kernels* (*)();
    const auto entry = reinterpret_cast<Entry>(dlsym(library, "seo_kernels_cpu_plugin"));
    if (entry) return *entry();
    tried += std::string("; ") + dlerror();
  }
  throw std::runtime_error("seo_kernels: no CPU kernels could be loaded" + tried);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& loaded = load_kernels();
  return loaded;
}

}  // namespace seo_kernels::cpu
