#include "quantise.h"

#include <algorithm>
#include <cmath>

#include "dct.h"

namespace edgejpeg {
namespace {

// The mean absolute error of the int16 DCT and its quantiser on noise, and a tenth more, by horizontal frequency, in
// units of a JPEG file's coefficients. A level differs where the error carries a coefficient over the border between
// two levels: with probability error / q when the coefficients are spread evenly.
constexpr double kError[8] = {0.026, 0.030, 0.028, 0.031, 0.026, 0.037, 0.036, 0.074};

// AC coefficients reach 1024 (at frequency 4), so that a step from here on gives no level above 127.
constexpr int kNarrowStep = 9;

double expected_differences(const uint8_t* table) {
  double sum = 0;
  for (size_t i = 0; i < kBlockSize; ++i) sum += kError[i % 8] / table[i];
  return sum / kBlockSize;
}

// What a Quantiser has for a step at a horizontal frequency, and the correction where the coefficients are exact.
struct Division {
  uint16_t correction;
  uint16_t exact_correction;
  uint16_t reciprocal;
  uint16_t scale;
  uint16_t shift;
};

// Of all steps: a frame has its own tables, and a hundred divisions would be felt in a small one.
struct Divisions {
  Division of[8][256] = {};

  Divisions() {
    for (int u = 0; u < 8; ++u) {
      for (int q = 1; q < 256; ++q) {
        const double step = q * dct_scale(u);
        unsigned shift = 0;
        double reciprocal = 65536 / step;
        for (; reciprocal < 32768; reciprocal *= 2) ++shift;
        // Where both frequencies are 0 or 4 the coefficient is an exact multiple of 1/8, here of 3, and often half way
        // between two levels. The 1 makes sure that a reciprocal that was rounded down does not pull it below.
        of[u][q] = {static_cast<uint16_t>(step / 2 + 0.5), static_cast<uint16_t>(step / 2 + 1),
                    static_cast<uint16_t>(std::min(std::floor(reciprocal + 0.5), 65535.0)),
                    static_cast<uint16_t>(65536u >> shift), static_cast<uint16_t>(shift)};
      }
    }
  }
};

}  // namespace

Quantiser make_quantiser(const uint8_t* table, const double* dead_zone) {
  static const Divisions divisions;
  Quantiser quantiser = {};
  quantiser.narrow = true;
  for (size_t raster = 0; raster < kBlockSize; ++raster) {
    const size_t i = transpose_index(raster);
    const Division& division = divisions.of[raster % 8][table[raster]];
    const bool is_exact = raster % 4 == 0 && raster / 8 % 4 == 0;
    quantiser.correction[i] = is_exact ? division.exact_correction : division.correction;
    quantiser.reciprocal[i] = division.reciprocal;
    quantiser.scale[i] = division.scale;
    quantiser.shift[i] = division.shift;
    if (dead_zone != nullptr) {
      const double threshold = dead_zone_threshold(dead_zone[raster], table[raster]);
      quantiser.threshold[i] = static_cast<int16_t>(std::ceil(threshold * dct_scale(static_cast<int>(raster % 8))));
      if (threshold > 0) quantiser.has_dead_zone = true;
    }
    if (raster > 0 && table[raster] < kNarrowStep) quantiser.narrow = false;
  }
  return quantiser;
}

double expected_differences(const Geometry& geometry, const uint8_t* luma, const uint8_t* chroma) {
  if (geometry.components == 1) return expected_differences(luma);
  const double luma_blocks = static_cast<double>(geometry.component[0].horizontal * geometry.component[0].vertical);
  return (luma_blocks * expected_differences(luma) + 2 * expected_differences(chroma)) / (luma_blocks + 2);
}

}  // namespace edgejpeg
