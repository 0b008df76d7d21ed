#include "ladder.h"

#include <initializer_list>

namespace edgejpeg {

LevelCurve::LevelCurve(const Ladder& ladder, size_t pixels)
    : ladder_(ladder), pixel_bytes_(static_cast<double>(pixels) / 8) {
  for (double& bytes : bytes_) bytes = -1;
}

double LevelCurve::guess(size_t level) const {
  if (is_known(level)) return bytes_[level];
  for (size_t distance = 1; distance < count(); ++distance) {
    for (const size_t near : {level - distance, level + distance}) {
      if (near < count() && is_known(near)) {
        return bytes_[near] * ladder_.levels[level].rate / ladder_.levels[near].rate;
      }
    }
  }
  return pixel_bytes_ * ladder_.levels[level].rate;
}

size_t level_expected_to_fit(const LevelCurve& curve, size_t budget, size_t highest) {
  size_t level = highest;
  while (level > 0 && curve.guess(level) > static_cast<double>(budget)) --level;
  return level;
}

size_t SlopeSearch::least() const {
  size_t best = 0;
  double lowest = curve_.guess(0);
  for (size_t level = 1; level < curve_.count(); ++level) {
    const double cost = curve_.guess(level) - slope_ * static_cast<double>(level);
    if (cost < lowest) {
      best = level;
      lowest = cost;
    }
  }
  return best;
}

bool SlopeSearch::next() {
  level_ = least();
  if (!curve_.is_known(level_)) return true;
  for (const size_t near : {level_ - 1, level_ + 1}) {
    if (near < curve_.count() && !curve_.is_known(near)) {
      level_ = near;
      return true;
    }
  }
  // The lowest levels, where a curve is least convex, are counted in no time.
  if (curve_.is_known(0)) return false;
  level_ = 0;
  return true;
}

}  // namespace edgejpeg
