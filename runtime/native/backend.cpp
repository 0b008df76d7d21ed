#include "backend.h"

#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace edgejpeg {
namespace {

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("popcnt");
}
#endif

#if defined(__aarch64__)
bool has_neon() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0;
#else
  return true;
#endif
}
#endif

}  // namespace

const Backend* choose_backend(const char* name) {
  const bool any = name == nullptr || *name == 0;
#if defined(__x86_64__)
  if ((any || std::strcmp(name, kAvx512Backend.name) == 0) && has_avx512()) return &kAvx512Backend;
  if ((any || std::strcmp(name, kAvx2Backend.name) == 0) && has_avx2()) return &kAvx2Backend;
#endif
#if defined(__aarch64__)
  if ((any || std::strcmp(name, kNeonBackend.name) == 0) && has_neon()) return &kNeonBackend;
#endif
  if (!any && std::strcmp(name, kReferenceBackend.name) == 0) return &kReferenceBackend;
  return any || std::strcmp(name, kScalarBackend.name) == 0 ? &kScalarBackend : nullptr;
}

}  // namespace edgejpeg
