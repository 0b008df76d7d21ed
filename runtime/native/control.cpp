#include "control.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quantise.h"

namespace edgejpeg {
namespace {

// Fitted on photographs and video frames; by effort.
constexpr double kScanBytesPerEntropyByte[2] = {1.013, 1.026};
constexpr double kScanBytesPerBlock[2] = {0.363, 0.062};
constexpr double kHeaderBytes[2][2] = {{245, 190}, {440, 320}};  // one component, three; of small files

constexpr double kTolerance = 0.03;
constexpr double kLargestRatio = 60;
constexpr int kMaxTries = 16;
constexpr double kNearEnough = 0.4;
constexpr int kRefinements = 2;
constexpr double kHighestLevel = 1e300;
constexpr double kScaleLimit = 512;  // from 1 / this to this the scale of a table has an effect

double binary_entropy(double p) {
  const double rest = 1 - p;
  return -(p * std::log2(p) + (rest > 0 ? rest * std::log2(rest) : 0));
}

// What is added before rounding down: 1/128 of the bits of the zigzag position in reverse, the slot behind them and a
// half. Neighbours are far apart; on average it is 1/2.
double rounding_offset(size_t position, size_t slot) {
  size_t reversed = slot;
  for (size_t bit = 0; bit < 6; ++bit) reversed |= (position >> bit & 1) << (6 - bit);
  return (static_cast<double>(reversed) + 0.5) / 128;
}

}  // namespace

double laplace_entropy(double lambda, double q, double threshold) {
  const double ratio = q / lambda;
  if (!(ratio < kLargestRatio)) return 0;  // lambda = 0 as well
  const double nonzero = std::exp(-threshold * ratio);
  const double larger = std::exp((threshold - 1.5) * ratio);  // P(|K| > 1 | K != 0)
  const double again = std::exp(-ratio);                      // P(|K| > k + 1 | |K| > k), k > 0
  const double magnitude = binary_entropy(larger) + larger * binary_entropy(again) / -std::expm1(-ratio);
  return binary_entropy(nonzero) + nonzero * (1 + magnitude);
}

void scale_table(const uint8_t* table, double factor, size_t slot, uint8_t* scaled) {
  for (size_t k = 0; k < kBlockSize; ++k) {
    const double step = std::floor(table[kZigzag[k]] * factor + rounding_offset(k, slot));
    scaled[kZigzag[k]] = static_cast<uint8_t>(std::clamp(step, 1.0, 255.0));
  }
}

RateModel::RateModel(const Design& design, const edgejpeg_statistics& statistics, const double* const dead_zone[2],
                     int effort)
    : designed_(true), effort_(effort), statistics_(statistics), design_(design) {
  start(dead_zone);
  // From the highest level on, s sigma^2 < d holds everywhere and all steps are q_max.
  double power = 0;
  double peak = 0;
  const double ratio = design.chroma_water_level / design.luma_water_level;
  for (size_t c = 0; c < static_cast<size_t>(statistics_.components); ++c) {
    for (size_t i = 0; i < 64; ++i) {
      const double product = design_.sensitivity[c][i] * statistics_.variance[c][i];
      power = std::max(power, c == 0 ? product : product / ratio);
      if (c == 0) peak = std::max(peak, 10 * design_.sensitivity[0][i]);
    }
  }
  // Above 0 without sensitivities as well, and finite whatever they are.
  highest_ = std::clamp(std::max(power, 1e-12 * peak), 1e-290, kHighestLevel) * 1.000001;
  lowest_ = highest_ * 1e-12;
}

RateModel::RateModel(const uint8_t* const tables[2], const edgejpeg_statistics& statistics,
                     const double* const dead_zone[2], int effort)
    : designed_(false), effort_(effort), statistics_(statistics) {
  start(dead_zone);
  for (size_t slot = 0; slot < (statistics_.components == 1 ? 1u : 2u); ++slot) {
    std::memcpy(tables_[slot], tables[slot], 64);
  }
  highest_ = kScaleLimit;
  lowest_ = 1 / kScaleLimit;
}

void RateModel::start(const double* const dead_zone[2]) {
  header_bytes_ = kHeaderBytes[statistics_.components == 1 ? 0 : 1][effort_];
  for (size_t slot = 0; slot < 2; ++slot) dead_zone_[slot] = dead_zone == nullptr ? nullptr : dead_zone[slot];
  // Tails are heavier than a Laplacian's where smooth and busy blocks mix, and the entropy is lower.
  for (size_t c = 0; c < static_cast<size_t>(statistics_.components); ++c) {
    for (size_t i = 0; i < 64; ++i) {
      const double deviation = std::sqrt(statistics_.variance[c][i]);
      const double mean = statistics_.laplace_scale[c][i];
      scale_[c][i] = i == 0 ? deviation / std::sqrt(2.0)
                            : mean * std::sqrt(std::sqrt(2.0) * mean / (deviation > 0 ? deviation : 1.0));
    }
  }
}

double RateModel::bytes(double control) const {
  uint8_t tables[2][64];
  if (designed_) {
    Design design = design_;
    design.luma_water_level = control;
    design.chroma_water_level = chroma_level_at(design_, control);
    design_luma(design, statistics_, tables[0]);
    if (statistics_.components == 3) design_chroma(design, statistics_, tables[1]);
  } else {
    scale_table(tables_[0], control, 0, tables[0]);
    if (statistics_.components == 3) scale_table(tables_[1], control, 1, tables[1]);
  }
  double bits = 0;
  double blocks = 0;
  for (size_t c = 0; c < static_cast<size_t>(statistics_.components); ++c) {
    const size_t slot = c == 0 ? 0 : 1;
    double entropy = 0;
    for (size_t i = 0; i < 64; ++i) {
      entropy += laplace_entropy(scale_[c][i], tables[slot][i], dead_zone_[slot] ? dead_zone_[slot][i] : 0.5);
    }
    bits += entropy * static_cast<double>(statistics_.blocks[c]);
    blocks += static_cast<double>(statistics_.blocks[c]);
  }
  return header_bytes_ + kScanBytesPerEntropyByte[effort_] * bits / 8 + kScanBytesPerBlock[effort_] * blocks;
}

double RateModel::invert(double size, double start) const {
  const double target = std::log(std::max(size, 1.0));
  const double ends[2] = {std::log(lowest_), std::log(highest_)};
  const auto excess = [&](double at) { return std::log(std::max(bytes(std::exp(at)), 1.0)) - target; };

  // Grow the bracket towards the side where the root must be: files of photographs go about as d^-.4.
  double left = std::log(std::clamp(start, lowest_, highest_));
  double left_value = excess(left);
  const bool above = left_value > 0;
  double step = std::max(3 * std::fabs(left_value), 0.05);
  double right;
  double right_value;
  while (true) {
    right = std::clamp(left + (above ? step : -step), ends[0], ends[1]);
    right_value = excess(right);
    if ((right_value > 0) != above) break;
    if (right == ends[0] || right == ends[1]) return above ? highest_ : lowest_;
    left = right;
    left_value = right_value;
    step *= 2;
  }
  // Regula falsi, Illinois variant; bisection where a step of the tables makes it slow.
  int kept = 0;
  for (int i = 0; i < 60; ++i) {
    if (std::fabs(right - left) < 1e-4) break;
    const double middle =
        i < 6 ? left - left_value * (right - left) / (right_value - left_value) : 0.5 * (left + right);
    const double middle_value = excess(middle);
    if (std::fabs(middle_value) < 1e-3) return std::exp(middle);
    if ((middle_value > 0) == (right_value > 0)) {
      right = middle;
      right_value = middle_value;
      if (kept == 1) left_value *= 0.5;
      kept = 1;
    } else {
      left = middle;
      left_value = middle_value;
      if (kept == -1) right_value *= 0.5;
      kept = -1;
    }
  }
  // A step of the tables that jumps over the size: the side that stays below it.
  return std::exp(std::max(left, right));
}

BudgetSearch::BudgetSearch(const RateModel& model, size_t budget, double start, int max_encodes)
    : model_(model),
      budget_(static_cast<double>(budget)),
      aim_((1 - kTolerance / 2) * budget_),
      max_encodes_(max_encodes),
      control_(model.invert(aim_, start)),
      too_large_(model.lowest()) {}

double BudgetSearch::corrected(double size) const {
  const double modelled = model_.bytes(control_) - model_.header_bytes();
  const double correction = modelled > 0 ? (size - model_.header_bytes()) / modelled : 1;
  const double target = model_.header_bytes() + (aim_ - model_.header_bytes()) / std::max(correction, 0.01);
  return std::max(model_.invert(target, control_), std::min(too_large_ * 1.01, model_.highest()));
}

bool BudgetSearch::refine(double expected) {
  if (refinements_ == kRefinements || encodes_ == kMaxTries - 1) return false;
  if (std::fabs(expected - aim_) < kNearEnough * kTolerance * budget_) return false;
  ++refinements_;
  control_ = corrected(expected);
  return true;
}

bool BudgetSearch::report(size_t size) {
  const double bytes = static_cast<double>(size);
  ++encodes_;
  refinements_ = 0;
  if (bytes <= budget_) {
    if (!met_ || size > best_size_) {
      best_control_ = control_;
      best_size_ = size;
    }
    met_ = true;
    if (bytes >= (1 - kTolerance) * budget_ || control_ <= model_.lowest()) return false;
  } else {
    if (control_ >= model_.highest()) {
      if (!met_) {
        best_control_ = control_;
        best_size_ = size;
      }
      return false;
    }
    too_large_ = std::max(too_large_, control_);
  }
  if ((met_ && encodes_ >= max_encodes_) || encodes_ == kMaxTries) return false;
  // After two that were too large, aim lower by more and more.
  if (encodes_ >= 2) aim_ -= kTolerance / 2 * budget_ * std::ldexp(1.0, encodes_ - 2);
  control_ = corrected(bytes);
  if (encodes_ == kMaxTries - 1) control_ = model_.highest();
  return true;
}

}  // namespace edgejpeg
