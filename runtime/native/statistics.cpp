#include "statistics.h"

#include <algorithm>

#include "dct.h"

namespace edgejpeg {

void Sums::add(const Sums& other) {
  for (size_t i = 0; i < kBlockSize; ++i) {
    value[i] += other.value[i];
    magnitude[i] += other.magnitude[i];
    square[i] += other.square[i];
  }
}

void finish_statistics(const Sums& sums, size_t blocks, size_t c, edgejpeg_statistics* statistics) {
  const double share = 1 / static_cast<double>(blocks);
  statistics->blocks[c] = static_cast<int64_t>(blocks);
  for (int u = 0; u < 8; ++u) {
    const double unit = 1 / dct_scale(u);
    for (int v = 0; v < 8; ++v) {
      const int transposed = 8 * u + v;
      const int raster = 8 * v + u;
      const double mean = static_cast<double>(sums.value[transposed]) * share;
      // Around an integer near the mean the sum of squares is exact, and little is left to subtract.
      const auto centre = static_cast<int64_t>(mean);
      const int64_t square = sums.square[transposed] - 2 * centre * sums.value[transposed] +
                             static_cast<int64_t>(blocks) * centre * centre;
      const double rest = mean - static_cast<double>(centre);
      const double variance = std::max(static_cast<double>(square) * share - rest * rest, 0.0);
      statistics->mean[c][raster] = mean * unit;
      statistics->variance[c][raster] = variance * unit * unit;
      statistics->laplace_scale[c][raster] = static_cast<double>(sums.magnitude[transposed]) * share * unit;
    }
  }
}

}  // namespace edgejpeg
