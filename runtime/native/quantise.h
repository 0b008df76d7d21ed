// Quantization to the integers that a file codes.
#ifndef EDGEJPEG_QUANTISE_H_
#define EDGEJPEG_QUANTISE_H_

#include <cstddef>
#include <cstdint>

#include "geometry.h"

namespace edgejpeg {

// kZigzag[k]: the row-major index of the frequency at zigzag position k [ITU-T T.81, figure A.6].
constexpr uint8_t kZigzag[kBlockSize] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                         12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                         35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                         58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// The place of a row-major index in the transposed order, and back.
constexpr size_t transpose_index(size_t index) { return index % 8 * 8 + index / 8; }

// The levels of one block, as the entropy coder takes them.
struct Block {
  int8_t levels[kBlockSize + 1];  // zigzag; [0] has no meaning, the last one is 0
  uint8_t wide;                   // an AC level is outside -127..127: the levels are elsewhere, as int16
  int16_t dc;
  uint64_t mask;  // bit k: the level at zigzag position k >= 1 is not 0
};

// A table for the int16 DCT, in transposed order:
// level = sign(x) * ((((|x| + correction) * reciprocal) >> 16) >> shift), or 0 where |x| < threshold.
struct Quantiser {
  alignas(32) uint16_t correction[kBlockSize];
  alignas(32) uint16_t reciprocal[kBlockSize];
  alignas(32) uint16_t scale[kBlockSize];  // 2^(16 - shift): (v * scale) >> 16 is v >> shift
  alignas(32) uint16_t shift[kBlockSize];
  alignas(32) int16_t threshold[kBlockSize];  // 0: plain rounding
  bool narrow;                                // no AC level can be wide
  bool has_dead_zone;                         // a threshold is not 0
};

// `table`: 64 steps q, 1..255, row-major. `dead_zone`: 64 thresholds in units of q, .5..1, row-major, or nullptr. A
// level becomes 0 where |C| is below threshold * q; .5 is plain rounding.
Quantiser make_quantiser(const uint8_t* table, const double* dead_zone);

// A threshold of a dead zone in units of a JPEG file's coefficients; 0: plain rounding, for which it may stand
// anywhere.
inline double dead_zone_threshold(double threshold, double step) { return threshold > 0.5 ? threshold * step : 0; }

// How many of a frame's levels would differ from those of the float64 DCT, as a fraction: an estimate from above, met
// by noise. Natural frames stay below it.
double expected_differences(const Geometry& geometry, const uint8_t* luma, const uint8_t* chroma);

// Above this the float64 DCT is used.
constexpr double kMaxDifferences = 0.005;

}  // namespace edgejpeg

#endif  // EDGEJPEG_QUANTISE_H_
