#include "trellis.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

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

// The best way to a nonzero level at a position.
struct Node {
  int16_t level;     // its magnitude
  uint8_t position;  // zigzag; 0 is the start
  uint8_t before;    // the node of the nonzero level before
};

// The nodes that may still be the best to come from, in the order of positions.
struct Front {
  double cost[64];  // relative to a block of zeros
  uint8_t position[64];
  uint8_t node[64];
  int count;
};

struct Arrival {
  double cost;
  uint8_t before;
};

// The cheapest way to a level of `size` value bits at `position`; of equal ones from the nearest node.
inline Arrival arrive(const Front& front, int position, int size, const Trellis& trellis) {
  int best = front.count - 1;
  double least = front.cost[best] + trellis.cost[size][position - front.position[best] - 1];
  for (int i = best - 1; i >= 0; --i) {
    const double cost = front.cost[i] + trellis.cost[size][position - front.position[i] - 1];
    best = cost < least ? i : best;
    least = cost < least ? cost : least;
  }
  return {least, front.node[best]};
}

}  // namespace

void set_trellis_rates(const uint8_t* lengths, double lambda, Trellis* trellis) {
  int excess = 0;
  for (int size = 1; size <= kMaxAcSize; ++size) {
    int dearest = 0;  // among the shorter runs
    for (int run = 0; run <= kMaxRun; ++run) {
      const unsigned symbol = static_cast<unsigned>(run % 16) << 4 | static_cast<unsigned>(size);
      const int bits = run / 16 * lengths[kSixteenZeros] + lengths[symbol] + size;
      trellis->cost[size][run] = lambda * bits;
      excess = std::max(excess, dearest - bits);
      dearest = std::max(dearest, bits);
    }
  }
  trellis->end = lambda * lengths[kEndOfBlock];
  trellis->slack = lambda * (excess + 1e-6);  // a little more, for the rounding of sums
}

template <typename Coefficient, typename Level>
uint64_t trellis_block(const Coefficient* coefficients, const Trellis& trellis, uint64_t mask, Level* levels) {
  if (mask == 0 || !codable(levels, mask)) return mask;
  Node nodes[64];
  Front front;
  nodes[0] = {0, 0, 0};
  front.cost[0] = 0;
  front.position[0] = 0;
  front.node[0] = 0;
  front.count = 1;
  uint8_t last = 0;
  for (uint64_t rest = mask; rest != 0; rest &= rest - 1) {
    const int k = __builtin_ctzll(rest);
    const double magnitude = std::fabs(static_cast<double>(coefficients[trellis.coefficient[k]]));
    const int level = std::abs(levels[k]);
    const int size = bit_length(level);
    Arrival best = arrive(front, k, size, trellis);
    best.cost += gain(magnitude, trellis.step[k] * level, trellis.weight[k]);
    int chosen = level;
    // One step towards zero pays only with a value bit less.
    if (level > 1 && (level & (level - 1)) == 0) {
      Arrival lower = arrive(front, k, size - 1, trellis);
      lower.cost += gain(magnitude, trellis.step[k] * (level - 1), trellis.weight[k]);
      if (lower.cost < best.cost) {
        best = lower;
        chosen = level - 1;
      }
    }
    nodes[++last] = {static_cast<int16_t>(chosen), static_cast<uint8_t>(k), best.before};
    // From an earlier node the way on is at best `slack` cheaper. A large level leaves itself alone.
    const double limit = best.cost + trellis.slack;
    int kept = 0;
    for (int i = 0; i < front.count; ++i) {
      const double cost = front.cost[i];
      front.cost[kept] = cost;
      front.position[kept] = front.position[i];
      front.node[kept] = front.node[i];
      kept += cost <= limit ? 1 : 0;
    }
    front.cost[kept] = best.cost;
    front.position[kept] = static_cast<uint8_t>(k);
    front.node[kept] = last;
    front.count = kept + 1;
  }
  int end = front.count - 1;
  double least = front.cost[end] + (front.position[end] == 63 ? 0.0 : trellis.end);
  for (int i = end - 1; i >= 0; --i) {
    const double cost = front.cost[i] + trellis.end;
    if (cost < least) {
      least = cost;
      end = i;
    }
  }
  uint64_t kept = 0;
  for (unsigned at = front.node[end]; at != 0; at = nodes[at].before) {
    const Node& node = nodes[at];
    kept |= uint64_t{1} << node.position;
    levels[node.position] = static_cast<Level>(levels[node.position] < 0 ? -node.level : node.level);
  }
  for (uint64_t gone = mask & ~kept; gone != 0; gone &= gone - 1) levels[__builtin_ctzll(gone)] = 0;
  return kept;
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
    cost += trellis.cost[bit_length(level)][k - before - 1];
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
