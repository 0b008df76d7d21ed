// The 8x8 orthonormal DCT-II in float64, at the scale of a JPEG file's coefficients.
#ifndef EDGEJPEG_DCT_H_
#define EDGEJPEG_DCT_H_

#include <cstddef>
#include <cstdint>

namespace edgejpeg {

// `samples`: 8 rows, `stride` samples apart. `coefficients`: 64, row-major, row = vertical frequency.
// The sums run in the order of the Python reference, so that both give the same last bit.
void forward_dct(const int8_t* samples, size_t stride, double* coefficients);

}  // namespace edgejpeg

#endif  // EDGEJPEG_DCT_H_
