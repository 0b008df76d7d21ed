// Trellis quantization: levels that weigh a network's sensitivity against real code lengths.
//
// Of all blocks in which every rounded AC level K stays, moves one step towards zero or becomes zero, the one with the
// smallest sum of w (C - q K)^2 + lambda * bits: exact, by dynamic programming over the nonzero levels. The oracle is
// edgejpeg/jpeg/trellis.py; both take the same decisions.
#ifndef EDGEJPEG_TRELLIS_H_
#define EDGEJPEG_TRELLIS_H_

#include <cstddef>
#include <cstdint>

namespace edgejpeg {

constexpr int kMaxAcSize = 10;     // value bits of an AC level
constexpr int kMaxAcLevel = 1023;  // the largest AC level that baseline JPEG codes

// What the trellis needs to know of a component. Steps and weights in the units of the coefficients: with coefficients
// scaled by f, f q and w / f^2.
struct Trellis {
  double step[64];          // zigzag
  double weight[64];        // zigzag, not negative
  uint8_t coefficient[64];  // where in a block the coefficient of a zigzag position is
  // Set by set_trellis_rates.
  double cost[63][kMaxAcSize + 2];  // lambda * bits of a level after so many zeros, by its value bits; [0] is infinite
  double end;                       // lambda * bits of EOB
  double slack[63];                 // no level is dearer than this compared with the same one after a longer run, up to
                                    // so many zeros
};

// `lengths`: code lengths by symbol, none 0 among those of AC levels, ZRL and EOB: give a symbol that an optimal table
// lacks 16 bits. `lambda` >= 0: weighted distortion per bit.
void set_trellis_rates(const uint8_t* lengths, double lambda, Trellis* trellis);

// `levels`: 64 in zigzag order, rounded (with or without a dead zone), and replaced. `mask`: bit k says that the level
// at zigzag position k >= 1 is not 0; bit 0 is clear. Returns the new mask. DC is not looked at, and a block with a
// level beyond kMaxAcLevel is left alone. For float, double and int16_t coefficients, int8_t and int16_t levels.
template <typename Coefficient, typename Level>
uint64_t trellis_block(const Coefficient* coefficients, const Trellis& trellis, uint64_t mask, Level* levels);

// End-of-block trimming: the same with one choice left, behind which nonzero level the block ends.
template <typename Coefficient, typename Level>
uint64_t trim_block(const Coefficient* coefficients, const Trellis& trellis, uint64_t mask, Level* levels);

}  // namespace edgejpeg

#endif  // EDGEJPEG_TRELLIS_H_
