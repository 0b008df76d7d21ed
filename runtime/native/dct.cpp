#include "dct.h"

namespace edgejpeg {
namespace {

// 1/sqrt(8), then cos(k pi/16)/2 for k = 1..7: the literals of edgejpeg/jpeg/dct.py.
constexpr double kCosines[8] = {0.35355339059327376, 0.4903926402016152,  0.46193976625564337, 0.41573480615127262,
                                0.35355339059327379, 0.27778511650980114, 0.19134171618254492, 0.097545161008064166};

struct Matrix {
  double value[8][8] = {};

  // value[x][u]: sample x, frequency u.
  constexpr Matrix() {
    for (int u = 0; u < 8; ++u) {
      for (int x = 0; x < 8; ++x) {
        const int angle = (2 * x + 1) * u % 32;               // in units of pi/16
        const int folded = angle <= 16 ? angle : 32 - angle;  // the cosine is even about 0 and about 16
        value[x][u] = u == 0 ? kCosines[0] : folded <= 8 ? kCosines[folded % 8] : -kCosines[16 - folded];
      }
    }
  }
};

constexpr Matrix kMatrix;

}  // namespace

void forward_dct(const int8_t* samples, size_t stride, double* coefficients) {
  double horizontal[8][8];
  for (int row = 0; row < 8; ++row, samples += stride) {
    double sums[8] = {};
    for (int x = 0; x < 8; ++x) {
      const double sample = samples[x];
      for (int u = 0; u < 8; ++u) sums[u] += sample * kMatrix.value[x][u];
    }
    for (int u = 0; u < 8; ++u) horizontal[row][u] = sums[u];
  }
  for (int v = 0; v < 8; ++v) {
    double sums[8] = {};
    for (int row = 0; row < 8; ++row) {
      const double weight = kMatrix.value[row][v];
      for (int u = 0; u < 8; ++u) sums[u] += weight * horizontal[row][u];
    }
    for (int u = 0; u < 8; ++u) coefficients[8 * v + u] = sums[u];
  }
}

}  // namespace edgejpeg
