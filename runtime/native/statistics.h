// Mean, variance and Laplace scale of the DCT coefficients of one component.
#ifndef EDGEJPEG_STATISTICS_H_
#define EDGEJPEG_STATISTICS_H_

#include <cstdint>

#include "edgejpeg.h"
#include "geometry.h"

namespace edgejpeg {

// Over the blocks of a component, for every position of the transposed order, at the scale of the int16 DCT. Integers:
// the order of the additions, and so the number of threads, does not matter.
struct Sums {
  int64_t value[kBlockSize];
  int64_t magnitude[kBlockSize];
  int64_t square[kBlockSize];

  void add(const Sums& other);
};

// Fills component `c` of `statistics`, in the scale of a JPEG file and row-major.
void finish_statistics(const Sums& sums, size_t blocks, size_t c, edgejpeg_statistics* statistics);

}  // namespace edgejpeg

#endif  // EDGEJPEG_STATISTICS_H_
