// The 8x8 DCT-II: an int16 version that every back end follows, and the float64 one of the Python reference.
#ifndef EDGEJPEG_DCT_H_
#define EDGEJPEG_DCT_H_

#include <cstdint>

namespace edgejpeg {

// The int16 DCT is that of Arai, Agui and Nakajima (1988), whose outputs carry the factors kAan. Samples enter times
// kDctInput. The vertical pass comes first; between the passes a rounding multiplication takes its factors out and
// brings the values to kDctGain, the horizontal pass leaves its own in. All multiplications are (a * b + 2^14) >> 15,
// which AVX2 (mulhrs) and NEON (sqrdmulh) have as one instruction.
//
// With samples of -128..127 no value leaves int16: the largest is 128 * 24 * 8 * 1.387 * .9063 < 30900.
constexpr double kAan[8] = {1.0, 1.387039845, 1.306562965, 1.175875602, 1.0, 0.785694958, 0.541196100, 0.275899379};
constexpr int16_t kDctInput = 24;
constexpr double kDctGain = 3;

// An int16 coefficient of horizontal frequency u is this many times the coefficient of a JPEG file.
constexpr double dct_scale(int u) { return 8 * kDctGain * kAan[u]; }

constexpr int16_t kAanC4 = 23170;         // cos(4 pi/16), in units of 2^-15
constexpr int16_t kAanC6 = 12540;         // cos(6 pi/16)
constexpr int16_t kAanC2MinusC6 = 17734;  // cos(2 pi/16) - cos(6 pi/16)
constexpr int16_t kAanC2PlusC6 = 10045;   // cos(2 pi/16) + cos(6 pi/16) - 1

constexpr int16_t normalisation(int v) { return static_cast<int16_t>(32768 * kDctGain / kDctInput / kAan[v] + 0.5); }
// For vertical frequency v.
constexpr int16_t kNormalisation[8] = {normalisation(0), normalisation(1), normalisation(2), normalisation(3),
                                       normalisation(4), normalisation(5), normalisation(6), normalisation(7)};

// 1/sqrt(8), then cos(k pi/16)/2 for k = 1..7: the literals of edgejpeg/jpeg/dct.py.
constexpr double kCosines[8] = {0.35355339059327376, 0.4903926402016152,  0.46193976625564337, 0.41573480615127262,
                                0.35355339059327379, 0.27778511650980114, 0.19134171618254492, 0.097545161008064166};

struct DctMatrix {
  double value[8][8] = {};

  // value[x][u]: sample x, frequency u.
  constexpr DctMatrix() {
    for (int u = 0; u < 8; ++u) {
      for (int x = 0; x < 8; ++x) {
        const int angle = (2 * x + 1) * u % 32;               // in units of pi/16
        const int folded = angle <= 16 ? angle : 32 - angle;  // the cosine is even about 0 and about 16
        value[x][u] = u == 0 ? kCosines[0] : folded <= 8 ? kCosines[folded % 8] : -kCosines[16 - folded];
      }
    }
  }
};

constexpr DctMatrix kDctMatrix;

}  // namespace edgejpeg

#endif  // EDGEJPEG_DCT_H_
