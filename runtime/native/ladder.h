// The level of a ladder: of equal slope on a frame's own curve of bytes, or the highest that a budget allows.
//
// Levels rise in rate, and a frame's bytes are taken to rise with them. The oracles are level_of_equal_slope and
// level_for_budget in edgejpeg/design/control.py, which have the bytes of every level; here few are asked for.
#ifndef EDGEJPEG_LADDER_H_
#define EDGEJPEG_LADDER_H_

#include <cstddef>
#include <cstdint>

#include "edgejpeg.h"
#include "geometry.h"

namespace edgejpeg {

constexpr size_t kMaxLevels = EDGEJPEG_MAX_LEVELS;

struct Ladder {
  struct Level {
    uint8_t tables[2][kBlockSize];
    bool has_chroma_table;
    double dead_zone[2][kBlockSize];
    bool has_dead_zone[2];
    double rate;
  };
  Level levels[kMaxLevels];
  size_t count;
};

// What is known of a frame's bytes by level, and a guess of the rest: the rates of the design, times one factor.
class LevelCurve {
 public:
  LevelCurve(const Ladder& ladder, size_t pixels);

  size_t count() const { return ladder_.count; }
  bool is_known(size_t level) const { return bytes_[level] >= 0; }
  double bytes(size_t level) const { return bytes_[level]; }
  void set(size_t level, double bytes) { bytes_[level] = bytes; }
  // With the factor of the nearest level that is known.
  double guess(size_t level) const;

 private:
  const Ladder& ladder_;
  double bytes_[kMaxLevels];
  double pixel_bytes_;
};

// The highest level up to `highest` that is expected to fit, or the lowest of all.
size_t level_expected_to_fit(const LevelCurve& curve, size_t budget, size_t highest);

// Set the curve at level() until next() says that level() is the answer: what minimises bytes - slope * level, of equal
// levels the lowest. Its neighbours and the lowest level are known then, and no guess is lower.
class SlopeSearch {
 public:
  SlopeSearch(const LevelCurve& curve, double slope) : curve_(curve), slope_(slope), level_(least()) {}

  size_t level() const { return level_; }
  // False at the end.
  [[nodiscard]] bool next();

 private:
  size_t least() const;

  const LevelCurve& curve_;
  double slope_;
  size_t level_;
};

// Encode at level() and report the size, until report() says that the search is over: after two encodes, if one of them
// fits. A level is estimated by counting some rows, and where that leaves it open whether it fits, counted in all rows:
// both leave out some per mille, about the same for all levels.
class LevelSearch {
 public:
  // No level above `highest`. `level`: where to begin.
  LevelSearch(size_t budget, size_t highest, size_t level)
      : budget_(budget), bytes_(static_cast<double>(budget)), above_(highest + 1), level_(level) {}

  size_t level() const { return level_; }
  // `estimate`, `count`: a level to its bytes.
  template <typename Estimate, typename Count>
  [[nodiscard]] bool report(size_t size, Estimate estimate, Count count);

  // At the end: whether a level met the budget, and which. If none did, `smallest` is the lowest level's file.
  bool met() const { return fitting_ > 0; }
  size_t best() const { return fitting_ - 1; }
  size_t smallest() const { return smallest_; }

 private:
  // How far an estimate and a count are trusted.
  static constexpr double kMargin = 0.02;
  static constexpr double kCountMargin = 0.001;

  size_t budget_;
  double bytes_;
  size_t fitting_ = 0;  // the highest level that fits, and 1
  size_t above_;        // the lowest that does not
  size_t level_;
  size_t smallest_ = 0;
  int encodes_ = 0;
};

template <typename Estimate, typename Count>
bool LevelSearch::report(size_t size, Estimate estimate, Count count) {
  const size_t encoded = level_;
  const double factor = static_cast<double>(size) / estimate(encoded);
  double count_factor = 0;
  const auto fits = [&](size_t level) {
    const double expected = factor * estimate(level);
    if (expected < (1 - kMargin) * bytes_ || expected > (1 + kMargin) * bytes_) return expected < bytes_;
    if (count_factor <= 0) count_factor = static_cast<double>(size) / count(encoded);
    return count_factor * count(level) <= (1 - kCountMargin) * bytes_;
  };
  ++encodes_;
  if (size <= budget_) {
    fitting_ = encoded + 1;
    level_ = fitting_;
    // The next level may be tried, since there is a file already.
    if (encodes_ > 1 || level_ >= above_ || factor * estimate(level_) > (1 + kMargin) * bytes_) return false;
    while (level_ + 1 < above_ && factor * estimate(level_) < (1 - kMargin) * bytes_ && fits(level_ + 1)) ++level_;
    return true;
  }
  above_ = encoded;
  smallest_ = size;
  if (above_ == 0 || fitting_ > 0) return false;
  level_ = above_ - 1;
  while (level_ > 0 && !fits(level_)) --level_;
  return true;
}

}  // namespace edgejpeg

#endif  // EDGEJPEG_LADDER_H_
