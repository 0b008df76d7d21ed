// Mean, variance and Laplace scale of the DCT coefficients of one component.
#ifndef EDGEJPEG_STATISTICS_H_
#define EDGEJPEG_STATISTICS_H_

#include <cstddef>

namespace edgejpeg {

// A unit of work for one thread: this many neighbouring frequencies (a cache line of coefficients).
constexpr size_t kStatisticsGroup = 8;

// For frequencies first .. first + kStatisticsGroup - 1 over `blocks` blocks of 64 row-major coefficients:
// mean, population variance, and mean |C - mean|. Sequential over the blocks: the result is the same everywhere.
void group_statistics(const double* coefficients, size_t blocks, size_t first, double* mean, double* variance,
                      double* laplace_scale);

}  // namespace edgejpeg

#endif  // EDGEJPEG_STATISTICS_H_
