// A check that ends the program, so that the fuzzer keeps the input.
#ifndef EDGEJPEG_FUZZ_CHECK_H
#define EDGEJPEG_FUZZ_CHECK_H

#include <cstdio>
#include <cstdlib>

#define FUZZ_CHECK(condition, ...)                                         \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fputc('\n', stderr);                                            \
      std::abort();                                                        \
    }                                                                      \
  } while (false)

#endif  // EDGEJPEG_FUZZ_CHECK_H
