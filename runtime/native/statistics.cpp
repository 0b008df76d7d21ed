#include "statistics.h"

#include <cmath>

#include "geometry.h"

namespace edgejpeg {

void group_statistics(const double* coefficients, size_t blocks, size_t first, double* mean, double* variance,
                      double* laplace_scale) {
  const double count = static_cast<double>(blocks);
  const double* const begin = coefficients + first;
  const double* const end = begin + blocks * kBlockSize;
  double sums[kStatisticsGroup] = {};
  for (const double* c = begin; c != end; c += kBlockSize) {
    for (size_t i = 0; i < kStatisticsGroup; ++i) sums[i] += c[i];
  }
  double means[kStatisticsGroup];
  for (size_t i = 0; i < kStatisticsGroup; ++i) means[i] = sums[i] / count;
  double squares[kStatisticsGroup] = {};
  double magnitudes[kStatisticsGroup] = {};
  for (const double* c = begin; c != end; c += kBlockSize) {
    for (size_t i = 0; i < kStatisticsGroup; ++i) {
      const double difference = c[i] - means[i];
      squares[i] += difference * difference;
      magnitudes[i] += std::fabs(difference);
    }
  }
  for (size_t i = 0; i < kStatisticsGroup; ++i) {
    mean[first + i] = means[i];
    variance[first + i] = squares[i] / count;
    laplace_scale[first + i] = magnitudes[i] / count;
  }
}

}  // namespace edgejpeg
