#include "design.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <iterator>

namespace edgejpeg {
namespace {

// D_Lap / lambda^2 as a power series in (q / lambda)^2, for where the closed form loses digits to cancellation.
constexpr double kSeriesBelow = 0.5;
constexpr double kSeries[] = {1.0 / 12,
                              13.0 / 2880,
                              -1223.0 / 1451520,
                              49681.0 / 696729600,
                              -851479.0 / 183936614400,
                              3132944863.0 / 12051526975488000,
                              -3841651381.0 / 289236647411712000,
                              2993409657643.0 / 4720342085759139840000.0,
                              -3899392481519879.0 / 135605987439688569323520000.0};

// The largest q of low..high with feasible(q), where feasibility ends at some q and never returns; `low` when there is
// none.
template <typename Feasible>
int largest_step(int low, int high, Feasible feasible) {
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (feasible(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

int dc_step(double sensitivity, double water_level, int q_max) {
  const double step = std::floor(std::sqrt(12 * water_level / sensitivity));
  return static_cast<int>(std::clamp(step, 1.0, static_cast<double>(q_max)));
}

// The ratio q / lambda at which the distortion is y * lambda^2, tabulated over sqrt(y): close to a line there, until y
// comes near its limit of 2.
class InverseDistortion {
 public:
  InverseDistortion() {
    for (size_t i = 1; i <= kSize; ++i) {
      // The secant method, from the last two entries.
      const double root = static_cast<double>(i) * kStep;
      const double target = root * root;
      double before = ratio_[i - 1];
      double error_before = laplace_distortion(1, before) - target;
      double ratio = i == 1 ? root * 3.4641016151377544 : 2 * before - ratio_[i - 2];
      for (int iteration = 0; iteration < 20; ++iteration) {
        const double error = laplace_distortion(1, ratio) - target;
        const double change = error * (ratio - before) / (error - error_before);
        before = ratio;
        error_before = error;
        if (!(std::fabs(change) > 1e-12)) break;
        ratio -= change;
      }
      ratio_[i] = ratio;
    }
  }

  // Bounds of the largest feasible step, not floored: true for a y that is not near 2, `high` being infinite there.
  void bounds(double y, double lambda, double* low, double* high) const {
    const double place = std::sqrt(y) / kStep;
    const size_t i = static_cast<size_t>(place);
    if (i >= kSize) {
      *low = lambda * ratio_[kSize];
      *high = HUGE_VAL;
      return;
    }
    const double width = ratio_[i + 1] - ratio_[i];
    const double middle = ratio_[i] + (place - static_cast<double>(i)) * width;
    // The curve leaves its chord by less than a hundredth of the interval.
    *low = lambda * (middle - 0.02 * width);
    *high = lambda * (middle + 0.02 * width);
  }

 private:
  static constexpr size_t kSize = 2048;
  static constexpr double kStep = 1.4 / kSize;  // up to y = 1.96
  double ratio_[kSize + 1] = {};
};

const InverseDistortion& inverse_distortion() {
  static const InverseDistortion inverse;
  return inverse;
}

int ac_step(double sensitivity, double laplace_scale, double water_level, int q_max) {
  const double bound = water_level / sensitivity;
  const double square = laplace_scale * laplace_scale;
  if (!(bound < 2 * square)) return q_max;  // the limit of the distortion
  double low = 0;
  double high = 0;
  inverse_distortion().bounds(bound / square, laplace_scale, &low, &high);
  if (low >= q_max) return q_max;
  const int first = std::max(static_cast<int>(low), 1);
  // Where an integer lies between the bounds, the distortion itself decides.
  const int last = static_cast<int>(std::min(high, static_cast<double>(q_max)));
  if (last <= first) return first;
  return largest_step(first, last, [=](int q) { return laplace_distortion(laplace_scale, q) <= bound; });
}

}  // namespace

double chroma_level_at(const Design& design, double luma_water_level) {
  if (luma_water_level == design.luma_water_level) return design.chroma_water_level;
  return std::clamp(luma_water_level * (design.chroma_water_level / design.luma_water_level), DBL_MIN, DBL_MAX);
}

double laplace_distortion(double lambda, double q) {
  const double ratio = q / lambda;
  const double square = lambda * lambda;
  if (!(ratio < 700)) return 2 * square;  // the limit, where exp(-ratio) vanishes; lambda = 0 as well
  if (ratio < kSeriesBelow) {
    const double x = ratio * ratio;
    double sum = 0;
    for (size_t i = std::size(kSeries); i > 0; --i) sum = x * (kSeries[i - 1] + sum);
    return square * sum;
  }
  const double w = -std::expm1(-ratio);    // 1 - u
  const double threshold = ratio / w - 1;  // z / lambda
  return square * (2 - std::exp(-threshold) * (ratio / w) * (ratio / w) * (2 - w));
}

void design_luma(const Design& design, const edgejpeg_statistics& statistics, uint8_t* table) {
  const double level = design.luma_water_level;
  for (int i = 0; i < 64; ++i) {
    const double s = design.sensitivity[0][i];
    int q = design.q_max;
    if (!(s * statistics.variance[0][i] < level)) {
      q = i == 0 ? dc_step(s, level, design.q_max) : ac_step(s, statistics.laplace_scale[0][i], level, design.q_max);
    }
    table[i] = static_cast<uint8_t>(q);
  }
}

void design_chroma(const Design& design, const edgejpeg_statistics& statistics, uint8_t* table) {
  const double level = design.chroma_water_level;
  for (int i = 0; i < 64; ++i) {
    int q = design.q_max;
    // The component that binds decides; where both do, the smaller step satisfies both. For DC that is the step of
    // max(s_Cb, s_Cr), as case 4 has it.
    for (int c = 1; c < 3; ++c) {
      const double s = design.sensitivity[c][i];
      if (s * statistics.variance[c][i] < level) continue;
      q = std::min(q, i == 0 ? dc_step(s, level, design.q_max)
                             : ac_step(s, statistics.laplace_scale[c][i], level, design.q_max));
    }
    table[i] = static_cast<uint8_t>(q);
  }
}

}  // namespace edgejpeg
