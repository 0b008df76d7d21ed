// Quantization to the integers that a file codes.
#ifndef EDGEJPEG_QUANTISE_H_
#define EDGEJPEG_QUANTISE_H_

#include <cstddef>
#include <cstdint>

namespace edgejpeg {

// kZigzag[k]: the row-major index of the frequency at zigzag position k [ITU-T T.81, figure A.6].
extern const uint8_t kZigzag[64];

// levels[k] = sign(C) floor(|C| / q + 1/2), at the frequency of zigzag position k.
// `coefficients` and `table` are row-major; `levels` is in zigzag order.
void quantise_block(const double* coefficients, const uint8_t* table, int16_t* levels);

}  // namespace edgejpeg

#endif  // EDGEJPEG_QUANTISE_H_
