// The AVX2 and BMI2 back end. Two blocks share a register: one in each half.
#include <immintrin.h>

#include "backend.h"
#include "dct.h"
#include "token_kernel.h"

namespace edgejpeg {
namespace {

using Vector = __m256i;

inline Vector load(const void* p) { return _mm256_loadu_si256(static_cast<const Vector*>(p)); }
inline Vector load_twice(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline void store(void* p, Vector v) { _mm256_storeu_si256(static_cast<Vector*>(p), v); }

// --- colour ---

struct Pixels {
  Vector red;
  Vector green;
  Vector blue;
};

// Byte i of a result comes from `chosen` where mask i is set.
inline Vector choose(Vector other, Vector chosen, Vector mask) { return _mm256_blendv_epi8(other, chosen, mask); }

// 32 pixels, 16 in each half: byte i of the three loaded vectors holds channel i, i + 1 and i + 2 modulo 3.
template <bool bgr>
inline Pixels load_pixels(const uint8_t* p) {
  alignas(16) static constexpr uint8_t kModulo0[16] = {255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 255};
  alignas(16) static constexpr uint8_t kModulo1[16] = {0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0};
  alignas(16) static constexpr uint8_t kOrder[3][16] = {{0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13},
                                                        {1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14},
                                                        {2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15}};
  const auto part = [p](size_t offset) {
    const Vector low = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + offset)));
    return _mm256_inserti128_si256(low, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 48 + offset)), 1);
  };
  const Vector a = part(0);
  const Vector b = part(16);
  const Vector c = part(32);
  const Vector is_0 = load_twice(kModulo0);
  const Vector is_1 = load_twice(kModulo1);
  const Vector first = choose(choose(b, a, is_0), c, is_1);
  const Vector second = choose(choose(c, a, is_1), b, is_0);
  const Vector third = choose(choose(a, b, is_1), c, is_0);
  const Vector channel[3] = {_mm256_shuffle_epi8(first, load_twice(kOrder[0])),
                             _mm256_shuffle_epi8(second, load_twice(kOrder[1])),
                             _mm256_shuffle_epi8(third, load_twice(kOrder[2]))};
  return {channel[bgr ? 2 : 0], channel[1], channel[bgr ? 0 : 2]};
}

// Two int16 of every 32-bit lane: what a red and a blue difference are multiplied with.
inline Vector weights(int red, int blue) {
  return _mm256_set1_epi32(static_cast<int>(static_cast<uint32_t>(blue) << 16 | (static_cast<uint32_t>(red) & 0xFFFF)));
}

// The weights of a colour component sum to 65536 or 0, so that the differences to green are enough:
// Y = G + (19595 (R - G) + 7471 (B - G) + 32768 >> 16). `pairs` holds R - G, B - G for eight pixels.
inline Vector luma_above_green(Vector pairs) {
  const Vector sum = _mm256_madd_epi16(pairs, weights(19595, 7471));
  return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(32768)), 16);
}

// Cb = (32768 (B - G) - 11059 (R - G) + half) >> shift; -32768 fits int16, so the negative is subtracted.
template <int log2_pixels>
inline Vector chroma(Vector low, Vector high, Vector negative_weights) {
  const Vector half = _mm256_set1_epi32(32768 << log2_pixels);
  const auto scaled = [=](Vector pairs) {
    return _mm256_srai_epi32(_mm256_sub_epi32(half, _mm256_madd_epi16(pairs, negative_weights)), 16 + log2_pixels);
  };
  return _mm256_packs_epi32(scaled(low), scaled(high));
}

// The differences to green of 32 pixels: pairs [2 * i + j] for eight of them each, in the order of the unpackings.
struct Differences {
  Vector pairs[4];
};

inline Differences differences(const Pixels& p) {
  const Vector minus = _mm256_set1_epi16(static_cast<int16_t>(0xFF01));  // 1, -1
  const auto difference_low = [=](Vector v) { return _mm256_maddubs_epi16(_mm256_unpacklo_epi8(v, p.green), minus); };
  const auto difference_high = [=](Vector v) { return _mm256_maddubs_epi16(_mm256_unpackhi_epi8(v, p.green), minus); };
  const Vector red_low = difference_low(p.red);
  const Vector red_high = difference_high(p.red);
  const Vector blue_low = difference_low(p.blue);
  const Vector blue_high = difference_high(p.blue);
  return {{_mm256_unpacklo_epi16(red_low, blue_low), _mm256_unpackhi_epi16(red_low, blue_low),
           _mm256_unpacklo_epi16(red_high, blue_high), _mm256_unpackhi_epi16(red_high, blue_high)}};
}

inline void store_luma(const Differences& d, Vector green, int8_t* y) {
  const Vector zero = _mm256_setzero_si256();
  const Vector low = _mm256_add_epi16(_mm256_packs_epi32(luma_above_green(d.pairs[0]), luma_above_green(d.pairs[1])),
                                      _mm256_unpacklo_epi8(green, zero));
  const Vector high = _mm256_add_epi16(_mm256_packs_epi32(luma_above_green(d.pairs[2]), luma_above_green(d.pairs[3])),
                                       _mm256_unpackhi_epi8(green, zero));
  store(y, _mm256_xor_si256(_mm256_packus_epi16(low, high), _mm256_set1_epi8(static_cast<char>(0x80))));
}

inline Vector cb_weights() { return weights(11059, -32768); }
inline Vector cr_weights() { return weights(-32768, 5329); }

// 16 cells of 2^log2_pixels pixels from the sums of their differences.
template <int log2_pixels>
inline void store_cells(Vector red, Vector blue, int8_t* cb, int8_t* cr) {
  const Vector low = _mm256_unpacklo_epi16(red, blue);
  const Vector high = _mm256_unpackhi_epi16(red, blue);
  // The saturation turns 128 into 127.
  const Vector both =
      _mm256_packs_epi16(chroma<log2_pixels>(low, high, cb_weights()), chroma<log2_pixels>(low, high, cr_weights()));
  const Vector ordered = _mm256_permute4x64_epi64(both, 0xD8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(cb), _mm256_castsi256_si128(ordered));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(cr), _mm256_extracti128_si256(ordered, 1));
}

inline Vector add_neighbours(Vector bytes) { return _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)); }

template <bool bgr>
void convert_luma(const uint8_t* pixels, size_t count, int8_t* y) {
  for (size_t x = 0; x < count; x += kPixelGroup) {
    const Pixels p = load_pixels<bgr>(pixels + 3 * x);
    store_luma(differences(p), p.green, y + x);
  }
}

template <bool bgr>
void convert_444(const uint8_t* pixels, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  for (size_t x = 0; x < count; x += kPixelGroup) {
    const Pixels p = load_pixels<bgr>(pixels + 3 * x);
    const Differences d = differences(p);
    store_luma(d, p.green, y + x);
    const auto component = [&d](Vector negative_weights) {
      return _mm256_packs_epi16(chroma<0>(d.pairs[0], d.pairs[1], negative_weights),
                                chroma<0>(d.pairs[2], d.pairs[3], negative_weights));
    };
    store(cb + x, component(cb_weights()));
    store(cr + x, component(cr_weights()));
  }
}

template <bool bgr>
void convert_422(const uint8_t* pixels, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  for (size_t x = 0; x < count; x += kPixelGroup) {
    const Pixels p = load_pixels<bgr>(pixels + 3 * x);
    store_luma(differences(p), p.green, y + x);
    const Vector green = add_neighbours(p.green);
    store_cells<1>(_mm256_sub_epi16(add_neighbours(p.red), green), _mm256_sub_epi16(add_neighbours(p.blue), green),
                   cb + x / 2, cr + x / 2);
  }
}

template <bool bgr>
void convert_420(const uint8_t* const pixels[2], size_t count, int8_t* const y[2], int8_t* cb, int8_t* cr) {
  for (size_t x = 0; x < count; x += kPixelGroup) {
    const Pixels upper = load_pixels<bgr>(pixels[0] + 3 * x);
    store_luma(differences(upper), upper.green, y[0] + x);
    const Pixels lower = load_pixels<bgr>(pixels[1] + 3 * x);
    store_luma(differences(lower), lower.green, y[1] + x);
    const auto sum = [](Vector a, Vector b) { return _mm256_add_epi16(add_neighbours(a), add_neighbours(b)); };
    const Vector green = sum(upper.green, lower.green);
    store_cells<2>(_mm256_sub_epi16(sum(upper.red, lower.red), green),
                   _mm256_sub_epi16(sum(upper.blue, lower.blue), green), cb + x / 2, cr + x / 2);
  }
}

// --- DCT ---

inline Vector multiply(Vector a, int16_t b) { return _mm256_mulhrs_epi16(a, _mm256_set1_epi16(b)); }

inline void transform_lines(Vector* d) {
  const Vector sum07 = _mm256_add_epi16(d[0], d[7]);
  const Vector sum16 = _mm256_add_epi16(d[1], d[6]);
  const Vector sum25 = _mm256_add_epi16(d[2], d[5]);
  const Vector sum34 = _mm256_add_epi16(d[3], d[4]);
  const Vector difference07 = _mm256_sub_epi16(d[0], d[7]);
  const Vector difference16 = _mm256_sub_epi16(d[1], d[6]);
  const Vector difference25 = _mm256_sub_epi16(d[2], d[5]);
  const Vector difference34 = _mm256_sub_epi16(d[3], d[4]);

  const Vector outer_sum = _mm256_add_epi16(sum07, sum34);
  const Vector outer_difference = _mm256_sub_epi16(sum07, sum34);
  const Vector inner_sum = _mm256_add_epi16(sum16, sum25);
  const Vector rotated = multiply(_mm256_add_epi16(_mm256_sub_epi16(sum16, sum25), outer_difference), kAanC4);
  d[0] = _mm256_add_epi16(outer_sum, inner_sum);
  d[4] = _mm256_sub_epi16(outer_sum, inner_sum);
  d[2] = _mm256_add_epi16(outer_difference, rotated);
  d[6] = _mm256_sub_epi16(outer_difference, rotated);

  const Vector low = _mm256_add_epi16(difference34, difference25);
  const Vector middle = multiply(_mm256_add_epi16(difference25, difference16), kAanC4);
  const Vector high = _mm256_add_epi16(difference16, difference07);
  const Vector shared = multiply(_mm256_sub_epi16(low, high), kAanC6);
  const Vector low_rotated = _mm256_add_epi16(multiply(low, kAanC2MinusC6), shared);
  const Vector high_rotated = _mm256_add_epi16(_mm256_add_epi16(high, multiply(high, kAanC2PlusC6)), shared);
  const Vector plus = _mm256_add_epi16(difference07, middle);
  const Vector minus = _mm256_sub_epi16(difference07, middle);
  d[5] = _mm256_add_epi16(minus, low_rotated);
  d[3] = _mm256_sub_epi16(minus, low_rotated);
  d[1] = _mm256_add_epi16(plus, high_rotated);
  d[7] = _mm256_sub_epi16(plus, high_rotated);
}

// Both 8x8 blocks at once.
inline void transpose(Vector* d) {
  Vector pairs[8];
  Vector quads[8];
  for (int i = 0; i < 4; ++i) {
    pairs[2 * i] = _mm256_unpacklo_epi16(d[2 * i], d[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_epi16(d[2 * i], d[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 2; ++i) {
      quads[4 * half + 2 * i] = _mm256_unpacklo_epi32(pairs[4 * half + i], pairs[4 * half + 2 + i]);
      quads[4 * half + 2 * i + 1] = _mm256_unpackhi_epi32(pairs[4 * half + i], pairs[4 * half + 2 + i]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    d[2 * i] = _mm256_unpacklo_epi64(quads[i], quads[4 + i]);
    d[2 * i + 1] = _mm256_unpackhi_epi64(quads[i], quads[4 + i]);
  }
}

void transform(const int8_t* samples, size_t stride, size_t pairs, int16_t* coefficients) {
  const Vector normalisation = load_twice(kNormalisation);
  const Vector input = _mm256_set1_epi16(kDctInput);
  for (size_t pair = 0; pair < pairs; ++pair, samples += 16, coefficients += kPairSize) {
    Vector d[8];
    for (size_t y = 0; y < 8; ++y) {
      const __m128i row = _mm_loadu_si128(reinterpret_cast<const __m128i*>(samples + y * stride));
      d[y] = _mm256_mullo_epi16(_mm256_cvtepi8_epi16(row), input);
    }
    transform_lines(d);
    transpose(d);
    for (Vector& line : d) line = _mm256_mulhrs_epi16(line, normalisation);
    transform_lines(d);
    for (size_t u = 0; u < 8; ++u) store(coefficients + 16 * u, d[u]);
  }
}

// --- statistics ---

inline void add_to(Vector values, int64_t* sums) { store(sums, _mm256_add_epi64(load(sums), values)); }

// Adds the eight 32-bit lanes, four frequencies for two blocks, to four sums.
inline void add_lanes(Vector lanes, int64_t* sums) {
  add_to(_mm256_cvtepi32_epi64(_mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1))), sums);
}

// The same for 64-bit lanes of frequencies 0 and 2, 1 and 3.
inline void add_lanes64(Vector even, Vector odd, int64_t* sums) {
  const Vector first = _mm256_unpacklo_epi64(even, odd);
  const Vector last = _mm256_unpackhi_epi64(even, odd);
  add_to(_mm256_add_epi64(_mm256_permute2x128_si256(first, last, 0x20), _mm256_permute2x128_si256(first, last, 0x31)),
         sums);
}

// The sums of four frequencies. Sums of up to kMaxSummedPairs values fit 32 bits, those of squares do not.
struct HalfSums {
  Vector value = _mm256_setzero_si256();
  Vector magnitude = _mm256_setzero_si256();
  Vector even_square = _mm256_setzero_si256();
  Vector odd_square = _mm256_setzero_si256();

  // Each argument: two values of every frequency, side by side.
  void add(Vector a, Vector b) {
    const Vector one = _mm256_set1_epi16(1);
    value = _mm256_add_epi32(value, _mm256_add_epi32(_mm256_madd_epi16(a, one), _mm256_madd_epi16(b, one)));
    magnitude = _mm256_add_epi32(magnitude, _mm256_add_epi32(_mm256_madd_epi16(_mm256_abs_epi16(a), one),
                                                             _mm256_madd_epi16(_mm256_abs_epi16(b), one)));
    // Four squares of at most 30900: below 2^32.
    const Vector square = _mm256_add_epi32(_mm256_madd_epi16(a, a), _mm256_madd_epi16(b, b));
    even_square = _mm256_add_epi64(even_square, _mm256_blend_epi32(square, _mm256_setzero_si256(), 0xAA));
    odd_square = _mm256_add_epi64(odd_square, _mm256_srli_epi64(square, 32));
  }
};

void accumulate(const int16_t* coefficients, size_t pairs, Sums* sums) {
  for (size_t u = 0; u < 8; ++u) {
    HalfSums low;
    HalfSums high;
    const int16_t* line = coefficients + 16 * u;
    size_t left = pairs;
    const auto add = [&](Vector a, Vector b, Vector c, Vector d) {
      low.add(_mm256_unpacklo_epi16(a, b), _mm256_unpacklo_epi16(c, d));
      high.add(_mm256_unpackhi_epi16(a, b), _mm256_unpackhi_epi16(c, d));
    };
    for (; left >= 4; left -= 4, line += 4 * kPairSize) {
      add(load(line), load(line + kPairSize), load(line + 2 * kPairSize), load(line + 3 * kPairSize));
    }
    const Vector zero = _mm256_setzero_si256();
    for (; left > 0; --left, line += kPairSize) add(load(line), zero, zero, zero);
    add_lanes(low.value, sums->value + 8 * u);
    add_lanes(high.value, sums->value + 8 * u + 4);
    add_lanes(low.magnitude, sums->magnitude + 8 * u);
    add_lanes(high.magnitude, sums->magnitude + 8 * u + 4);
    add_lanes64(low.even_square, low.odd_square, sums->square + 8 * u);
    add_lanes64(high.even_square, high.odd_square, sums->square + 8 * u + 4);
  }
}

// --- quantization ---

// Shuffles that bring the bytes of the transposed order to zigzag order: from 16 bytes to 16 bytes.
struct ZigzagShuffles {
  alignas(16) uint8_t index[4][4][16] = {};  // [to][from]

  constexpr ZigzagShuffles() {
    for (size_t k = 0; k < kBlockSize; ++k) {
      const size_t from = transpose_index(kZigzag[k]);
      for (size_t part = 0; part < 4; ++part) {
        index[k / 16][part][k % 16] = static_cast<uint8_t>(part == from / 16 ? from % 16 : 0x80);
      }
    }
  }
};

constexpr ZigzagShuffles kShuffles;

template <size_t to, size_t from>
inline Vector shuffle(const Vector* parts) {
  return _mm256_shuffle_epi8(parts[from], load_twice(kShuffles.index[to][from]));
}

inline uint64_t nonzero_mask(Vector low, Vector high) {
  const Vector zero = _mm256_setzero_si256();
  const auto zeros = [zero](Vector v) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, zero)));
  };
  return ~(static_cast<uint64_t>(zeros(high)) << 32 | zeros(low)) & ~uint64_t{1};
}

inline void store_block(Vector low, Vector high, int dc, uint8_t wide, Block* block) {
  store(block->levels, low);
  store(block->levels + 32, high);
  block->levels[kBlockSize] = 0;
  block->wide = wide;
  block->dc = static_cast<int16_t>(dc);
  block->mask = nonzero_mask(low, high);
}

[[gnu::noinline]] void store_wide_levels(const Vector* lines, int16_t* levels) {
  alignas(32) int16_t values[kPairSize];
  for (size_t u = 0; u < 8; ++u) store(values + 16 * u, lines[u]);
  for (size_t half = 0; half < 2; ++half) {
    for (size_t k = 0; k < kBlockSize; ++k) {
      const size_t from = transpose_index(kZigzag[k]);
      levels[half * kBlockSize + k] = values[from / 8 * 16 + half * 8 + from % 8];
    }
  }
}

// `bits`: those of the magnitudes of all lines but the first.
inline bool has_wide_level(Vector bits, Vector first) {
  const Vector large = _mm256_set1_epi16(~127);
  const Vector without_dc =
      _mm256_set_epi16(~127, ~127, ~127, ~127, ~127, ~127, ~127, 0, ~127, ~127, ~127, ~127, ~127, ~127, ~127, 0);
  return _mm256_testz_si256(bits, large) == 0 || _mm256_testz_si256(first, without_dc) == 0;
}

template <bool narrow, bool has_dead_zone>
void quantise_pairs(const int16_t* coefficients, size_t pairs, const Quantiser& quantiser, Block* blocks,
                    int16_t* levels) {
  for (size_t pair = 0; pair < pairs; ++pair, coefficients += kPairSize, blocks += 2, levels += kPairSize) {
    for (size_t i = 0; i < kPairSize; i += 32) __builtin_prefetch(coefficients + kPairsAhead * kPairSize + i);
    Vector lines[8];
    Vector first = _mm256_setzero_si256();
    Vector bits = _mm256_setzero_si256();
    for (size_t u = 0; u < 8; ++u) {
      const Vector value = load(coefficients + 16 * u);
      const Vector absolute = _mm256_abs_epi16(value);
      const Vector sum = _mm256_add_epi16(absolute, load_twice(quantiser.correction + 8 * u));
      const Vector scaled = _mm256_mulhi_epu16(sum, load_twice(quantiser.reciprocal + 8 * u));
      Vector magnitude = _mm256_mulhi_epu16(scaled, load_twice(quantiser.scale + 8 * u));
      if (has_dead_zone) {
        const Vector is_below = _mm256_cmpgt_epi16(load_twice(quantiser.threshold + 8 * u), absolute);
        magnitude = _mm256_andnot_si256(is_below, magnitude);
      }
      if (u == 0) {
        first = magnitude;
      } else {
        bits = _mm256_or_si256(bits, magnitude);
      }
      lines[u] = _mm256_sign_epi16(magnitude, value);
    }
    const bool wide = !narrow && __builtin_expect(has_wide_level(bits, first), 0);
    if (wide) store_wide_levels(lines, levels);
    Vector parts[4];
    for (size_t i = 0; i < 4; ++i) parts[i] = _mm256_packs_epi16(lines[2 * i], lines[2 * i + 1]);
    // The first 16 places of the zigzag take nothing from the last 16 of the transposed order, nor the last from the
    // first.
    const Vector z0 =
        _mm256_or_si256(_mm256_or_si256(shuffle<0, 0>(parts), shuffle<0, 1>(parts)), shuffle<0, 2>(parts));
    const Vector z1 = _mm256_or_si256(_mm256_or_si256(shuffle<1, 0>(parts), shuffle<1, 1>(parts)),
                                      _mm256_or_si256(shuffle<1, 2>(parts), shuffle<1, 3>(parts)));
    const Vector z2 = _mm256_or_si256(_mm256_or_si256(shuffle<2, 0>(parts), shuffle<2, 1>(parts)),
                                      _mm256_or_si256(shuffle<2, 2>(parts), shuffle<2, 3>(parts)));
    const Vector z3 =
        _mm256_or_si256(_mm256_or_si256(shuffle<3, 1>(parts), shuffle<3, 2>(parts)), shuffle<3, 3>(parts));
    const auto flag = static_cast<uint8_t>(wide ? 1 : 0);
    store_block(_mm256_permute2x128_si256(z0, z1, 0x20), _mm256_permute2x128_si256(z2, z3, 0x20),
                _mm256_extract_epi16(lines[0], 0), flag, blocks);
    store_block(_mm256_permute2x128_si256(z0, z1, 0x31), _mm256_permute2x128_si256(z2, z3, 0x31),
                _mm256_extract_epi16(lines[0], 8), flag, blocks + 1);
  }
}

void quantise(const int16_t* coefficients, size_t pairs, const Quantiser& quantiser, Block* blocks, int16_t* levels) {
  const auto quantise_all = quantiser.has_dead_zone
                                ? (quantiser.narrow ? quantise_pairs<true, true> : quantise_pairs<false, true>)
                                : (quantiser.narrow ? quantise_pairs<true, false> : quantise_pairs<false, false>);
  quantise_all(coefficients, pairs, quantiser, blocks, levels);
}

// --- entropy coding ---

struct Compact {
  static void move(const int8_t* levels, const uint8_t* order, uint8_t base, uint8_t* level, uint8_t* place) {
    const __m128i from = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(order));
    const __m128i all = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(levels));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(level), _mm_shuffle_epi8(all, from));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(place), _mm_add_epi8(from, _mm_set1_epi8(static_cast<char>(base))));
  }
};

// --- stuffing ---

uint8_t* append(const uint8_t* in, size_t bytes, unsigned shift, uint8_t* out) {
  const __m128i down = _mm_cvtsi32_si128(static_cast<int>(shift));
  const __m128i up = _mm_cvtsi32_si128(static_cast<int>(8 - shift));
  const Vector low_mask = _mm256_set1_epi8(static_cast<char>(0xFF >> shift));
  const Vector high_mask = _mm256_set1_epi8(static_cast<char>(0xFF << (8 - shift)));
  const Vector all = _mm256_set1_epi8(-1);
  const uint8_t* const end = in + bytes;
  while (in < end) {
    const Vector high = _mm256_and_si256(_mm256_sll_epi16(load(in - 1), up), high_mask);
    const Vector low = _mm256_and_si256(_mm256_srl_epi16(load(in), down), low_mask);
    const Vector value = _mm256_or_si256(high, low);
    store(out, value);
    size_t taken = static_cast<size_t>(end - in) < sizeof(Vector) ? static_cast<size_t>(end - in) : sizeof(Vector);
    const auto stuffed = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(value, all)));
    if (stuffed != 0) {
      const auto first = static_cast<size_t>(__builtin_ctz(stuffed));
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

// --- choice of the order of channels ---

void convert_any_luma(const uint8_t* pixels, bool bgr, size_t count, int8_t* y) {
  (bgr ? convert_luma<true> : convert_luma<false>)(pixels, count, y);
}

void convert_any_444(const uint8_t* pixels, bool bgr, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  (bgr ? convert_444<true> : convert_444<false>)(pixels, count, y, cb, cr);
}

void convert_any_422(const uint8_t* pixels, bool bgr, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  (bgr ? convert_422<true> : convert_422<false>)(pixels, count, y, cb, cr);
}

void convert_any_420(const uint8_t* const pixels[2], bool bgr, size_t count, int8_t* const y[2], int8_t* cb,
                     int8_t* cr) {
  (bgr ? convert_420<true> : convert_420<false>)(pixels, count, y, cb, cr);
}

}  // namespace

const Backend kAvx2Backend = {
    "avx2",   convert_any_luma, convert_any_444,       convert_any_422,       convert_any_420, transform, accumulate,
    quantise, quantise_exactly, count_tokens<Compact>, write_tokens<Compact>, append,          nullptr};

}  // namespace edgejpeg
