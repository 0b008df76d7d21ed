// Stages of the AVX2 back end that the AVX-512 one has as well.
#ifndef EDGEJPEG_AVX2_H_
#define EDGEJPEG_AVX2_H_

#include <cstddef>
#include <cstdint>

#include "statistics.h"

namespace edgejpeg {

// As in Backend.
void avx2_transform(const int8_t* samples, size_t stride, size_t pairs, int16_t* coefficients);
// One horizontal frequency of Backend::accumulate.
void avx2_accumulate_line(const int16_t* coefficients, size_t pairs, size_t u, Sums* sums);
uint8_t* avx2_append(const uint8_t* in, size_t bytes, unsigned shift, uint8_t* out);

}  // namespace edgejpeg

#endif  // EDGEJPEG_AVX2_H_
