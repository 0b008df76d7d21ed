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

// Encode at level() and report the size, until report() says that the search is over. `Estimate`: a level to its bytes
// by counting, which leaves out some per mille, the same for all levels.
class LevelSearch {
 public:
  // No level above `highest`. `level`: where to begin.
  LevelSearch(size_t budget, size_t highest, size_t level) : budget_(budget), above_(highest + 1), level_(level) {}

  size_t level() const { return level_; }
  template <typename Estimate>
  [[nodiscard]] bool report(size_t size, Estimate estimate);

  // At the end: whether a level met the budget, and which. If none did, `smallest` is the lowest level's file.
  bool met() const { return fitting_ > 0; }
  size_t best() const { return fitting_ - 1; }
  size_t smallest() const { return smallest_; }

 private:
  // How far an estimate is trusted.
  static constexpr double kMargin = 0.02;

  size_t budget_;
  size_t fitting_ = 0;  // the highest level that fits, and 1
  size_t above_;        // the lowest that does not
  size_t level_;
  size_t smallest_ = 0;
};

template <typename Estimate>
bool LevelSearch::report(size_t size, Estimate estimate) {
  const double budget = static_cast<double>(budget_);
  const double factor = static_cast<double>(size) / estimate(level_);
  if (size <= budget_) {
    fitting_ = level_ + 1;
    size_t next = fitting_;
    if (next >= above_ || factor * estimate(next) > (1 + kMargin) * budget) return false;
    while (next + 1 < above_ && factor * estimate(next + 1) < (1 - kMargin) * budget) ++next;
    level_ = next;
    return true;
  }
  above_ = level_;
  smallest_ = size;
  if (above_ == fitting_) return false;
  size_t next = above_ - 1;
  while (next > fitting_ && factor * estimate(next) > budget) --next;
  level_ = next;
  return true;
}

}  // namespace edgejpeg

#endif  // EDGEJPEG_LADDER_H_
