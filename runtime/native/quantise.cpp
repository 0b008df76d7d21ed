#include "quantise.h"

#include <cmath>

#include "geometry.h"

namespace edgejpeg {

const uint8_t kZigzag[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                             41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                             30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

void quantise_block(const double* coefficients, const uint8_t* table, int16_t* levels) {
  int16_t raster[kBlockSize];
  for (size_t i = 0; i < kBlockSize; ++i) {
    // The conversion truncates, which is the floor of what is not negative.
    const int magnitude = static_cast<int>(std::fabs(coefficients[i]) / table[i] + 0.5);
    raster[i] = static_cast<int16_t>(coefficients[i] < 0 ? -magnitude : magnitude);
  }
  for (size_t k = 0; k < kBlockSize; ++k) levels[k] = raster[kZigzag[k]];
}

}  // namespace edgejpeg
