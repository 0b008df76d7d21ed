// The NEON back end, for 64-bit Arm.
#include <arm_neon.h>

#include "backend.h"
#include "dct.h"
#include "token_kernel.h"

namespace edgejpeg {
namespace {

// --- DCT ---

inline void transform_lines(int16x8_t* d) {
  const int16x8_t sum07 = vaddq_s16(d[0], d[7]);
  const int16x8_t sum16 = vaddq_s16(d[1], d[6]);
  const int16x8_t sum25 = vaddq_s16(d[2], d[5]);
  const int16x8_t sum34 = vaddq_s16(d[3], d[4]);
  const int16x8_t difference07 = vsubq_s16(d[0], d[7]);
  const int16x8_t difference16 = vsubq_s16(d[1], d[6]);
  const int16x8_t difference25 = vsubq_s16(d[2], d[5]);
  const int16x8_t difference34 = vsubq_s16(d[3], d[4]);

  const int16x8_t outer_sum = vaddq_s16(sum07, sum34);
  const int16x8_t outer_difference = vsubq_s16(sum07, sum34);
  const int16x8_t inner_sum = vaddq_s16(sum16, sum25);
  const int16x8_t rotated = vqrdmulhq_n_s16(vaddq_s16(vsubq_s16(sum16, sum25), outer_difference), kAanC4);
  d[0] = vaddq_s16(outer_sum, inner_sum);
  d[4] = vsubq_s16(outer_sum, inner_sum);
  d[2] = vaddq_s16(outer_difference, rotated);
  d[6] = vsubq_s16(outer_difference, rotated);

  const int16x8_t low = vaddq_s16(difference34, difference25);
  const int16x8_t middle = vqrdmulhq_n_s16(vaddq_s16(difference25, difference16), kAanC4);
  const int16x8_t high = vaddq_s16(difference16, difference07);
  const int16x8_t shared = vqrdmulhq_n_s16(vsubq_s16(low, high), kAanC6);
  const int16x8_t low_rotated = vaddq_s16(vqrdmulhq_n_s16(low, kAanC2MinusC6), shared);
  const int16x8_t high_rotated = vaddq_s16(vaddq_s16(high, vqrdmulhq_n_s16(high, kAanC2PlusC6)), shared);
  const int16x8_t plus = vaddq_s16(difference07, middle);
  const int16x8_t minus = vsubq_s16(difference07, middle);
  d[5] = vaddq_s16(minus, low_rotated);
  d[3] = vsubq_s16(minus, low_rotated);
  d[1] = vaddq_s16(plus, high_rotated);
  d[7] = vsubq_s16(plus, high_rotated);
}

inline int16x8_t low_halves(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s16_s64(vtrn1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
inline int16x8_t high_halves(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s16_s64(vtrn2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

inline void transpose(int16x8_t* d) {
  int32x4_t pairs[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = vreinterpretq_s32_s16(vtrn1q_s16(d[i], d[i + 1]));
    pairs[i + 1] = vreinterpretq_s32_s16(vtrn2q_s16(d[i], d[i + 1]));
  }
  for (int i = 0; i < 2; ++i) {
    const int32x4_t upper_even = vtrn1q_s32(pairs[i], pairs[i + 2]);
    const int32x4_t upper_odd = vtrn2q_s32(pairs[i], pairs[i + 2]);
    const int32x4_t lower_even = vtrn1q_s32(pairs[i + 4], pairs[i + 6]);
    const int32x4_t lower_odd = vtrn2q_s32(pairs[i + 4], pairs[i + 6]);
    d[i] = low_halves(upper_even, lower_even);
    d[i + 2] = low_halves(upper_odd, lower_odd);
    d[i + 4] = high_halves(upper_even, lower_even);
    d[i + 6] = high_halves(upper_odd, lower_odd);
  }
}

void transform(const int8_t* samples, size_t stride, size_t pairs, int16_t* coefficients) {
  const int16x8_t normalisation = vld1q_s16(kNormalisation);
  const int8x8_t input = vdup_n_s8(kDctInput);
  for (size_t block = 0; block < 2 * pairs; ++block, samples += 8) {
    int16x8_t d[8];
    for (size_t y = 0; y < 8; ++y) d[y] = vmull_s8(vld1_s8(samples + y * stride), input);
    transform_lines(d);
    transpose(d);
    for (int16x8_t& line : d) line = vqrdmulhq_s16(line, normalisation);
    transform_lines(d);
    int16_t* const out = coefficients + block / 2 * kPairSize + block % 2 * 8;
    for (size_t u = 0; u < 8; ++u) vst1q_s16(out + 16 * u, d[u]);
  }
}

// --- statistics ---

void accumulate(const int16_t* coefficients, size_t pairs, Sums* sums) {
  for (size_t u = 0; u < 8; ++u) {
    int32x4_t value[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    int32x4_t magnitude[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    uint64x2_t square[4] = {vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0)};
    const int16x8_t zero = vdupq_n_s16(0);
    const int16_t* line = coefficients + 16 * u;
    for (size_t pair = 0; pair < pairs; ++pair, line += kPairSize) {
      const int16x8_t a = vld1q_s16(line);
      const int16x8_t b = vld1q_s16(line + 8);
      value[0] = vaddq_s32(value[0], vaddl_s16(vget_low_s16(a), vget_low_s16(b)));
      value[1] = vaddq_s32(value[1], vaddl_high_s16(a, b));
      magnitude[0] =
          vabal_s16(vabal_s16(magnitude[0], vget_low_s16(a), vget_low_s16(zero)), vget_low_s16(b), vget_low_s16(zero));
      magnitude[1] = vabal_high_s16(vabal_high_s16(magnitude[1], a, zero), b, zero);
      // Two squares of at most 30900: below 2^31.
      const uint32x4_t low = vreinterpretq_u32_s32(
          vmlal_s16(vmull_s16(vget_low_s16(a), vget_low_s16(a)), vget_low_s16(b), vget_low_s16(b)));
      const uint32x4_t high = vreinterpretq_u32_s32(vmlal_high_s16(vmull_high_s16(a, a), b, b));
      square[0] = vaddw_u32(square[0], vget_low_u32(low));
      square[1] = vaddw_high_u32(square[1], low);
      square[2] = vaddw_u32(square[2], vget_low_u32(high));
      square[3] = vaddw_high_u32(square[3], high);
    }
    int32_t values[8];
    int32_t magnitudes[8];
    uint64_t squares[8];
    for (size_t i = 0; i < 2; ++i) {
      vst1q_s32(values + 4 * i, value[i]);
      vst1q_s32(magnitudes + 4 * i, magnitude[i]);
    }
    for (size_t i = 0; i < 4; ++i) vst1q_u64(squares + 2 * i, square[i]);
    for (size_t v = 0; v < 8; ++v) {
      sums->value[8 * u + v] += values[v];
      sums->magnitude[8 * u + v] += magnitudes[v];
      sums->square[8 * u + v] += static_cast<int64_t>(squares[v]);
    }
  }
}

// --- quantization ---

// zigzag place <- place in the transposed order
struct ZigzagOrder {
  alignas(16) uint8_t index[kBlockSize] = {};

  constexpr ZigzagOrder() {
    for (size_t k = 0; k < kBlockSize; ++k) index[k] = static_cast<uint8_t>(transpose_index(kZigzag[k]));
  }
};

constexpr ZigzagOrder kOrder;

template <bool has_dead_zone>
inline int16x8_t quantise_line(int16x8_t value, const Quantiser& quantiser, size_t u) {
  const int16x8_t absolute = vabsq_s16(value);
  const uint16x8_t sum = vaddq_u16(vreinterpretq_u16_s16(absolute), vld1q_u16(quantiser.correction + 8 * u));
  const uint16x8_t reciprocal = vld1q_u16(quantiser.reciprocal + 8 * u);
  const uint32x4_t low = vmull_u16(vget_low_u16(sum), vget_low_u16(reciprocal));
  const uint32x4_t high = vmull_high_u16(sum, reciprocal);
  const uint16x8_t scaled = vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high));
  const int16x8_t shift = vnegq_s16(vreinterpretq_s16_u16(vld1q_u16(quantiser.shift + 8 * u)));
  int16x8_t level = vreinterpretq_s16_u16(vshlq_u16(scaled, shift));
  if (has_dead_zone) {
    const uint16x8_t is_below = vcltq_s16(absolute, vld1q_s16(quantiser.threshold + 8 * u));
    level = vbicq_s16(level, vreinterpretq_s16_u16(is_below));
  }
  const int16x8_t sign = vshrq_n_s16(value, 15);
  return vsubq_s16(veorq_s16(level, sign), sign);
}

inline uint64_t nonzero_mask(const int8x16_t* levels) {
  alignas(16) static constexpr uint8_t kWeights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t weights = vld1q_u8(kWeights);
  uint8x16_t bits[4];
  for (int i = 0; i < 4; ++i) bits[i] = vandq_u8(vtstq_s8(levels[i], levels[i]), weights);
  const uint8x16_t sums = vpaddq_u8(vpaddq_u8(bits[0], bits[1]), vpaddq_u8(bits[2], bits[3]));
  return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)), 0) & ~uint64_t{1};
}

inline bool has_wide_level(const int16x8_t* lines) {
  int16x8_t largest = vabsq_s16(vsetq_lane_s16(0, lines[0], 0));
  for (int u = 1; u < 8; ++u) largest = vmaxq_s16(largest, vabsq_s16(lines[u]));
  return vmaxvq_s16(largest) > 127;
}

[[gnu::noinline]] void store_wide_levels(const int16x8_t* lines, int16_t* levels) {
  int16_t values[kBlockSize];
  for (size_t u = 0; u < 8; ++u) vst1q_s16(values + 8 * u, lines[u]);
  for (size_t k = 0; k < kBlockSize; ++k) levels[k] = values[kOrder.index[k]];
}

template <bool has_dead_zone>
void quantise_pairs(const int16_t* coefficients, size_t pairs, size_t ahead, const Quantiser& quantiser, Block* blocks,
                    int16_t* levels) {
  uint8x16_t order[4];
  for (size_t i = 0; i < 4; ++i) order[i] = vld1q_u8(kOrder.index + 16 * i);
  for (size_t block = 0; block < 2 * pairs; ++block, levels += kBlockSize) {
    const int16_t* const in = coefficients + block / 2 * kPairSize + block % 2 * 8;
    if (block % 2 == 0) fetch_pair(coefficients + ahead * kPairSize + block * kBlockSize);
    int16x8_t lines[8];
    for (size_t u = 0; u < 8; ++u) lines[u] = quantise_line<has_dead_zone>(vld1q_s16(in + 16 * u), quantiser, u);
    const bool wide = !quantiser.narrow && has_wide_level(lines);
    if (wide) store_wide_levels(lines, levels);
    int8x16x4_t packed;
    for (size_t i = 0; i < 4; ++i) {
      packed.val[i] = vqmovn_high_s16(vqmovn_s16(lines[2 * i]), lines[2 * i + 1]);
    }
    Block* const out = blocks + block;
    int8x16_t zigzag[4];
    for (size_t i = 0; i < 4; ++i) {
      zigzag[i] = vqtbl4q_s8(packed, order[i]);
      vst1q_s8(out->levels + 16 * i, zigzag[i]);
    }
    out->levels[kBlockSize] = 0;
    out->wide = wide ? 1 : 0;
    out->dc = vgetq_lane_s16(lines[0], 0);
    out->mask = nonzero_mask(zigzag);
  }
}

void quantise(const int16_t* coefficients, size_t pairs, size_t ahead, const Quantiser& quantiser, Block* blocks,
              int16_t* levels) {
  const auto quantise_all = quantiser.has_dead_zone ? quantise_pairs<true> : quantise_pairs<false>;
  quantise_all(coefficients, pairs, ahead, quantiser, blocks, levels);
}

// --- entropy coding ---

struct Move {
  static void move(const int8_t* levels, const uint8_t* order, uint8_t base, uint8_t* level, uint8_t* place) {
    const uint8x8_t from = vld1_u8(order);
    vst1_u8(level, vtbl1_u8(vreinterpret_u8_s8(vld1_s8(levels)), from));
    vst1_u8(place, vadd_u8(from, vdup_n_u8(base)));
  }
};

// --- stuffing ---

uint8_t* append(const uint8_t* in, size_t bytes, unsigned shift, uint8_t* out) {
  const int8x16_t up = vdupq_n_s8(static_cast<int8_t>(8 - shift));
  const int8x16_t down = vdupq_n_s8(static_cast<int8_t>(-static_cast<int>(shift)));
  const uint8_t* const end = in + bytes;
  while (in < end) {
    const uint8x16_t value = vorrq_u8(vshlq_u8(vld1q_u8(in - 1), up), vshlq_u8(vld1q_u8(in), down));
    vst1q_u8(out, value);
    size_t taken = static_cast<size_t>(end - in) < 16 ? static_cast<size_t>(end - in) : 16;
    const uint16x8_t stuffed = vreinterpretq_u16_u8(vceqq_u8(value, vdupq_n_u8(0xFF)));
    const uint64_t nibbles = vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(stuffed, 4)), 0);
    if (nibbles != 0) {
      const auto first = static_cast<size_t>(__builtin_ctzll(nibbles)) / 4;
      if (first < taken) {
        taken = first + 1;
        out[taken] = 0;
        ++out;
      }
    }
    out += taken;
    in += taken;
  }
  return out;
}

}  // namespace

const Backend kNeonBackend = {"neon",
                              &kNeonColour,
                              transform,
                              accumulate,
                              quantise,
                              quantise_exactly,
                              count_tokens<ByEight<Move>>,
                              write_tokens<ByEight<Move>>,
                              write_counted_tokens,
                              append,
                              nullptr};

}  // namespace edgejpeg
