#include "trellis.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace edgejpeg {
namespace {

constexpr unsigned kSixteenZeros = 0xF0;
constexpr unsigned kEndOfBlock = 0x00;
constexpr int kMaxRun = 62;

inline int bit_length(int value) { return 32 - __builtin_clz(static_cast<unsigned>(value)); }

// A bit for every nonzero AC level.
inline uint64_t nonzero_mask(const int16_t* levels) {
  uint64_t mask = 0;
  for (int k = 0; k < 64; k += 4) {
    uint64_t four;
    std::memcpy(&four, levels + k, sizeof(four));
    if (four == 0) continue;
    for (int i = k; i < k + 4; ++i) mask |= static_cast<uint64_t>(levels[i] != 0) << i;
  }
  return mask & ~uint64_t{1};
}

// w ((|C| - q|K|)^2 - C^2): the distortion relative to that of zero.
inline double gain(double magnitude, double reconstruction, double weight) {
  return weight * (reconstruction * (reconstruction - 2.0 * magnitude));
}

bool too_large(const int16_t* levels, uint64_t mask) {
  for (; mask != 0; mask &= mask - 1) {
    if (std::abs(levels[__builtin_ctzll(mask)]) > kMaxAcLevel) return true;
  }
  return false;
}

// The best way to a nonzero level at a position.
struct Node {
  double cost;       // relative to a block of zeros
  int16_t level;     // its magnitude
  uint8_t position;  // zigzag; 0 is the start
  uint8_t before;    // the node of the nonzero level before
};

struct Arrival {
  double cost;
  uint8_t before;
};

// The cheapest way to a level of `size` value bits at `position`; of equal ones from the nearest node.
inline Arrival arrive(const Node* nodes, const uint8_t* alive, int count, int position, int size,
                      const Trellis& trellis) {
  Arrival best = {};
  for (int i = count - 1; i >= 0; --i) {
    const Node& node = nodes[alive[i]];
    const double cost = node.cost + trellis.cost[position - node.position - 1][size];
    if (i == count - 1 || cost < best.cost) best = {cost, alive[i]};
  }
  return best;
}

}  // namespace

void set_trellis_rates(const uint8_t* lengths, double lambda, Trellis* trellis) {
  int excess = 0;
  for (int size = 1; size <= kMaxAcSize; ++size) {
    int dearest = 0;  // among the shorter runs
    for (int run = 0; run <= kMaxRun; ++run) {
      const unsigned symbol = static_cast<unsigned>(run % 16) << 4 | static_cast<unsigned>(size);
      const int bits = run / 16 * lengths[kSixteenZeros] + lengths[symbol] + size;
      trellis->cost[run][size] = lambda * bits;
      excess = std::max(excess, dearest - bits);
      dearest = std::max(dearest, bits);
    }
  }
  trellis->end = lambda * lengths[kEndOfBlock];
  trellis->slack = lambda * (excess + 1e-6);  // a little more, for the rounding of sums
}

template <typename Coefficient>
void trellis_block(const Coefficient* coefficients, const Trellis& trellis, int16_t* levels) {
  const uint64_t mask = nonzero_mask(levels);
  if (mask == 0 || too_large(levels, mask)) return;
  Node nodes[64];
  uint8_t alive[64];  // nodes that may still be the best to come from, in the order of positions
  nodes[0] = {0.0, 0, 0, 0};
  alive[0] = 0;
  int size_of_alive = 1;
  uint8_t last = 0;
  for (uint64_t rest = mask; rest != 0; rest &= rest - 1) {
    const int k = __builtin_ctzll(rest);
    const double magnitude = std::fabs(static_cast<double>(coefficients[trellis.coefficient[k]]));
    const int level = std::abs(levels[k]);
    const int size = bit_length(level);
    Arrival best = arrive(nodes, alive, size_of_alive, k, size, trellis);
    best.cost += gain(magnitude, trellis.step[k] * level, trellis.weight[k]);
    int chosen = level;
    // One step towards zero pays only with a value bit less.
    if (level > 1 && (level & (level - 1)) == 0) {
      Arrival lower = arrive(nodes, alive, size_of_alive, k, size - 1, trellis);
      lower.cost += gain(magnitude, trellis.step[k] * (level - 1), trellis.weight[k]);
      if (lower.cost < best.cost) {
        best = lower;
        chosen = level - 1;
      }
    }
    nodes[++last] = {best.cost, static_cast<int16_t>(chosen), static_cast<uint8_t>(k), best.before};
    // From an earlier node the way on is at best `slack` cheaper. A large level leaves itself alone.
    const double limit = best.cost + trellis.slack;
    int kept = 0;
    for (int i = 0; i < size_of_alive; ++i) {
      if (nodes[alive[i]].cost <= limit) alive[kept++] = alive[i];
    }
    alive[kept++] = last;
    size_of_alive = kept;
  }
  uint8_t end = alive[size_of_alive - 1];
  double least = nodes[end].cost + (nodes[end].position == 63 ? 0.0 : trellis.end);
  for (int i = size_of_alive - 2; i >= 0; --i) {
    const double cost = nodes[alive[i]].cost + trellis.end;
    if (cost < least) {
      least = cost;
      end = alive[i];
    }
  }
  uint64_t kept = 0;
  for (; end != 0; end = nodes[end].before) {
    const Node& node = nodes[end];
    kept |= uint64_t{1} << node.position;
    levels[node.position] = levels[node.position] < 0 ? static_cast<int16_t>(-node.level) : node.level;
  }
  for (uint64_t gone = mask & ~kept; gone != 0; gone &= gone - 1) levels[__builtin_ctzll(gone)] = 0;
}

template <typename Coefficient>
void trim_block(const Coefficient* coefficients, const Trellis& trellis, int16_t* levels) {
  const uint64_t mask = nonzero_mask(levels);
  if (mask == 0 || too_large(levels, mask)) return;
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
  for (uint64_t gone = mask & ~((uint64_t{2} << end) - 1); gone != 0; gone &= gone - 1) {
    levels[__builtin_ctzll(gone)] = 0;
  }
}

template void trellis_block(const float*, const Trellis&, int16_t*);
template void trellis_block(const int16_t*, const Trellis&, int16_t*);
template void trim_block(const float*, const Trellis&, int16_t*);
template void trim_block(const int16_t*, const Trellis&, int16_t*);

}  // namespace edgejpeg
