#include "trellis.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace edgejpeg {
namespace {

constexpr unsigned kSixteenZeros = 0xF0;
constexpr unsigned kEndOfBlock = 0x00;
constexpr int kMaxRun = 62;

inline int bit_length(int value) { return 32 - __builtin_clz(static_cast<unsigned>(value)); }

// w ((|C| - q|K|)^2 - C^2): the distortion relative to that of zero.
inline double gain(double magnitude, double reconstruction, double weight) {
  return weight * (reconstruction * (reconstruction - 2.0 * magnitude));
}

template <typename Level>
bool codable(const Level* levels, uint64_t mask) {
  if (sizeof(Level) == 1) return true;
  for (; mask != 0; mask &= mask - 1) {
    if (std::abs(levels[__builtin_ctzll(mask)]) > kMaxAcLevel) return false;
  }
  return true;
}

// Of a level and the one a step nearer to zero, which stands in [0].
typedef double Pair __attribute__((vector_size(16)));
typedef int64_t PairMask __attribute__((vector_size(16)));

inline Pair both(double value) { return Pair{value, value}; }

inline Pair load(const double* values) {
  Pair pair;
  std::memcpy(&pair, values, sizeof(pair));
  return pair;
}

inline PairMask select(PairMask mask, PairMask yes, PairMask no) { return (mask & yes) | (~mask & no); }

// What may stand at the position of a nonzero level.
struct Candidates {
  const double* cost;  // after no zeros
  Pair gain;           // [0] is infinite where a step towards zero does not save a value bit: it never pays
};

constexpr size_t kCosts = kMaxAcSize + 2;  // from a run to the next

inline Candidates candidates(const Trellis& trellis, int position, double coefficient, int level) {
  constexpr double kNever[2] = {0, std::numeric_limits<double>::infinity()};
  const Pair reconstruction = both(trellis.step[position]) * Pair{level - 1.0, static_cast<double>(level)};
  const Pair gain = both(trellis.weight[position]) * (reconstruction * (reconstruction - both(2 * coefficient)));
  return {trellis.cost[0] + bit_length(level) - 1, gain + Pair{kNever[(level & (level - 1)) != 0], 0}};
}

// The best way to a nonzero level at a position.
struct Way {
  double cost;       // relative to a block of zeros
  int position;      // zigzag; 0 is the start
  uint64_t levels;   // the positions of those that stay, this one included
  uint64_t lowered;  // of those that move towards zero
};

// Ways that may still be the best to come from, in the order of positions. Arrays of each part, since a whole way that
// is read soon after its parts were written waits for them.
struct Front {
  double cost[64];
  int position[64];
  uint64_t levels[64];
  uint64_t lowered[64];

  Way way(int64_t i) const { return {cost[i], position[i], levels[i], lowered[i]}; }
  void set(int i, const Way& way) {
    cost[i] = way.cost;
    position[i] = way.position;
    levels[i] = way.levels;
    lowered[i] = way.lowered;
  }
};

inline Pair cost_after(double cost, int run, const Candidates& next) {
  return both(cost) + load(next.cost + static_cast<size_t>(run) * kCosts);
}

// To the cheaper one of the two.
inline Way extended(const Way& before, bool lower, const Pair& cost, int position) {
  const uint64_t bit = uint64_t{1} << position;
  return {lower ? cost[0] : cost[1], position, before.levels | bit,
          before.lowered | static_cast<uint64_t>(lower) << position};
}

}  // namespace

void set_trellis_rates(const uint8_t* lengths, double lambda, Trellis* trellis) {
  int excess = 0;
  int dearest[kMaxAcSize + 1] = {};  // among the shorter runs
  for (int run = 0; run <= kMaxRun; ++run) {
    trellis->cost[run][0] = std::numeric_limits<double>::infinity();
    for (int size = 1; size <= kMaxAcSize; ++size) {
      const unsigned symbol = static_cast<unsigned>(run % 16) << 4 | static_cast<unsigned>(size);
      const int bits = run / 16 * lengths[kSixteenZeros] + lengths[symbol] + size;
      trellis->cost[run][size] = lambda * bits;
      excess = std::max(excess, dearest[size] - bits);
      dearest[size] = std::max(dearest[size], bits);
    }
    trellis->slack[run] = lambda * (excess + 1e-6);  // a little more, for the rounding of sums
  }
  trellis->end = lambda * lengths[kEndOfBlock];
}

template <typename Coefficient, typename Level>
uint64_t trellis_block(const Coefficient* coefficients, const Trellis& trellis, uint64_t mask, Level* levels) {
  if (mask == 0 || !codable(levels, mask)) return mask;
  const int last = 63 - __builtin_clzll(mask);
  const auto candidates_at = [&](int k) {
    const double magnitude = std::fabs(static_cast<double>(coefficients[trellis.coefficient[k]]));
    return candidates(trellis, k, magnitude, std::abs(levels[k]));
  };
  // The way on from a node is at best so much cheaper than that from a later one.
  const auto slack = [&](int position) { return trellis.slack[std::max(last - position - 1, 0)]; };

  // A large level leaves itself alone: mostly there is one way, which is held apart from a front of more.
  Way only = {0, 0, 0, 0};
  Front front;
  int count = 1;
  uint64_t rest = mask;
  while (true) {
    for (; rest != 0 && count == 1; rest &= rest - 1) {
      const int k = __builtin_ctzll(rest);
      const Candidates next = candidates_at(k);
      const Pair cost = cost_after(only.cost, k - only.position - 1, next) + next.gain;
      const Way way = extended(only, cost[0] < cost[1], cost, k);
      if (only.cost <= way.cost + slack(only.position)) {
        front.set(0, only);
        front.set(1, way);
        count = 2;
      } else {
        only = way;
      }
    }
    if (count == 1) break;
    for (; rest != 0 && count > 1; rest &= rest - 1) {
      const int k = __builtin_ctzll(rest);
      const Candidates next = candidates_at(k);
      // Of equally cheap ways the last one, from the nearest level.
      Pair cost = cost_after(front.cost[count - 1], k - front.position[count - 1] - 1, next);
      PairMask from = {count - 1, count - 1};
      for (int i = count - 2; i >= 0; --i) {
        const Pair other = cost_after(front.cost[i], k - front.position[i] - 1, next);
        const PairMask less = other < cost;
        from = select(less, PairMask{i, i}, from);
        cost =
            reinterpret_cast<Pair>(select(less, reinterpret_cast<PairMask>(other), reinterpret_cast<PairMask>(cost)));
      }
      cost += next.gain;
      const bool lower = cost[0] < cost[1];
      const Way way = extended(front.way(lower ? from[0] : from[1]), lower, cost, k);
      int kept = 0;
      for (int i = 0; i < count; ++i) {
        const Way old = front.way(i);
        const bool stays = old.cost <= way.cost + slack(old.position);
        front.set(kept, old);
        kept += stays ? 1 : 0;
      }
      front.set(kept, way);
      count = kept + 1;
    }
    if (count > 1) break;
    only = front.way(0);
  }
  Way best = count == 1 ? only : front.way(count - 1);
  double least = best.cost + (best.position == 63 ? 0.0 : trellis.end);
  for (int i = count - 2; i >= 0; --i) {
    const double cost = front.cost[i] + trellis.end;
    if (cost < least) {
      least = cost;
      best = front.way(i);
    }
  }
  for (uint64_t lowered = best.lowered; lowered != 0; lowered &= lowered - 1) {
    Level& level = levels[__builtin_ctzll(lowered)];
    level = static_cast<Level>(level < 0 ? level + 1 : level - 1);
  }
  for (uint64_t gone = mask & ~best.levels; gone != 0; gone &= gone - 1) levels[__builtin_ctzll(gone)] = 0;
  return best.levels;
}

template <typename Coefficient, typename Level>
uint64_t trim_block(const Coefficient* coefficients, const Trellis& trellis, uint64_t mask, Level* levels) {
  if (mask == 0 || !codable(levels, mask)) return mask;
  double cost = 0;
  double least = trellis.end;
  int end = 0;
  int before = 0;
  for (uint64_t rest = mask; rest != 0; rest &= rest - 1) {
    const int k = __builtin_ctzll(rest);
    const double magnitude = std::fabs(static_cast<double>(coefficients[trellis.coefficient[k]]));
    const int level = std::abs(levels[k]);
    cost += trellis.cost[k - before - 1][bit_length(level)];
    cost += gain(magnitude, trellis.step[k] * level, trellis.weight[k]);
    before = k;
    const double total = cost + (k == 63 ? 0.0 : trellis.end);
    if (total <= least) {
      least = total;
      end = k;
    }
  }
  const uint64_t kept = mask & ((uint64_t{2} << end) - 1);
  for (uint64_t gone = mask & ~kept; gone != 0; gone &= gone - 1) levels[__builtin_ctzll(gone)] = 0;
  return kept;
}

template uint64_t trellis_block(const float*, const Trellis&, uint64_t, int8_t*);
template uint64_t trellis_block(const float*, const Trellis&, uint64_t, int16_t*);
template uint64_t trellis_block(const double*, const Trellis&, uint64_t, int8_t*);
template uint64_t trellis_block(const double*, const Trellis&, uint64_t, int16_t*);
template uint64_t trellis_block(const int16_t*, const Trellis&, uint64_t, int8_t*);
template uint64_t trellis_block(const int16_t*, const Trellis&, uint64_t, int16_t*);
template uint64_t trim_block(const float*, const Trellis&, uint64_t, int8_t*);
template uint64_t trim_block(const float*, const Trellis&, uint64_t, int16_t*);
template uint64_t trim_block(const double*, const Trellis&, uint64_t, int8_t*);
template uint64_t trim_block(const double*, const Trellis&, uint64_t, int16_t*);
template uint64_t trim_block(const int16_t*, const Trellis&, uint64_t, int8_t*);
template uint64_t trim_block(const int16_t*, const Trellis&, uint64_t, int16_t*);

}  // namespace edgejpeg
