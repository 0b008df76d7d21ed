// The AVX2 and BMI2 back end. Two blocks share a register: one in each half.
#include "avx2.h"

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

// One horizontal frequency of all pairs.
[[gnu::noinline]] void accumulate_wide(const int16_t* line, size_t pairs, size_t u, Sums* sums) {
  HalfSums low;
  HalfSums high;
  const Vector zero = _mm256_setzero_si256();
  for (size_t left = pairs; left > 0;) {
    Vector v[4] = {zero, zero, zero, zero};
    const size_t taken = left < 4 ? left : 4;
    for (size_t i = 0; i < taken; ++i) v[i] = load(line + i * kPairSize);
    low.add(_mm256_unpacklo_epi16(v[0], v[1]), _mm256_unpacklo_epi16(v[2], v[3]));
    high.add(_mm256_unpackhi_epi16(v[0], v[1]), _mm256_unpackhi_epi16(v[2], v[3]));
    line += taken * kPairSize;
    left -= taken;
  }
  add_lanes(low.value, sums->value + 8 * u);
  add_lanes(high.value, sums->value + 8 * u + 4);
  add_lanes(low.magnitude, sums->magnitude + 8 * u);
  add_lanes(high.magnitude, sums->magnitude + 8 * u + 4);
  add_lanes64(low.even_square, low.odd_square, sums->square + 8 * u);
  add_lanes64(high.even_square, high.odd_square, sums->square + 8 * u + 4);
}

// The same where the magnitudes of every frequency of a block sum to less than 2^15: the 16 bits of their sum then hold
// that of the values as well, and 32 bits that of the squares, which is at most its square. Most lines but the first,
// with its DC, are so. False, and nothing is added, where they are not.
bool accumulate_narrow(const int16_t* line, size_t pairs, size_t u, Sums* sums) {
  Vector value = _mm256_setzero_si256();
  Vector magnitude = value;
  Vector low_square = value;
  Vector high_square = value;
  const auto add_squares = [&](Vector a, Vector b) {
    const Vector low = _mm256_unpacklo_epi16(a, b);
    const Vector high = _mm256_unpackhi_epi16(a, b);
    low_square = _mm256_add_epi32(low_square, _mm256_madd_epi16(low, low));
    high_square = _mm256_add_epi32(high_square, _mm256_madd_epi16(high, high));
  };
  for (; pairs >= 2; pairs -= 2, line += 2 * kPairSize) {
    const Vector a = load(line);
    const Vector b = load(line + kPairSize);
    value = _mm256_add_epi16(_mm256_add_epi16(value, a), b);
    magnitude = _mm256_adds_epu16(_mm256_adds_epu16(magnitude, _mm256_abs_epi16(a)), _mm256_abs_epi16(b));
    add_squares(a, b);
  }
  if (pairs > 0) {
    const Vector a = load(line);
    value = _mm256_add_epi16(value, a);
    magnitude = _mm256_adds_epu16(magnitude, _mm256_abs_epi16(a));
    add_squares(a, _mm256_setzero_si256());
  }
  if (_mm256_testz_si256(magnitude, _mm256_set1_epi16(INT16_MIN)) == 0) return false;
  const auto add_halves = [](Vector lanes, int64_t* to) {
    const Vector both = _mm256_add_epi32(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(lanes)),
                                         _mm256_cvtepi16_epi32(_mm256_extracti128_si256(lanes, 1)));
    add_to(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(both)), to);
    add_to(_mm256_cvtepi32_epi64(_mm256_extracti128_si256(both, 1)), to + 4);
  };
  add_halves(value, sums->value + 8 * u);
  add_halves(magnitude, sums->magnitude + 8 * u);
  const auto add_square_halves = [](Vector lanes, int64_t* to) {
    add_to(_mm256_cvtepu32_epi64(_mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1))), to);
  };
  add_square_halves(low_square, sums->square + 8 * u);
  add_square_halves(high_square, sums->square + 8 * u + 4);
  return true;
}

void accumulate_line(const int16_t* coefficients, size_t pairs, size_t u, Sums* sums) {
  const int16_t* const line = coefficients + 16 * u;
  if (u > 0 && __builtin_expect(accumulate_narrow(line, pairs, u, sums), 1)) return;
  accumulate_wide(line, pairs, u, sums);
}

void accumulate(const int16_t* coefficients, size_t pairs, Sums* sums) {
  for (size_t u = 0; u < 8; ++u) accumulate_line(coefficients, pairs, u, sums);
}

// --- quantization ---

// Shuffles that bring the bytes of the transposed order to zigzag order: from 16 bytes to 16 bytes.
struct ZigzagShuffles {
  alignas(32) uint8_t index[4][4][32] = {};  // [to][from], for both halves of a register

  constexpr ZigzagShuffles() {
    for (size_t k = 0; k < kBlockSize; ++k) {
      const size_t from = transpose_index(kZigzag[k]);
      for (size_t part = 0; part < 4; ++part) {
        const auto byte = static_cast<uint8_t>(part == from / 16 ? from % 16 : 0x80);
        index[k / 16][part][k % 16] = index[k / 16][part][16 + k % 16] = byte;
      }
    }
  }
};

constexpr ZigzagShuffles kShuffles;

template <size_t to, size_t from>
inline Vector shuffle(const Vector* parts) {
  return _mm256_shuffle_epi8(parts[from], load(kShuffles.index[to][from]));
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

// A quantiser for two blocks at once: what stands twice in memory need not be loaded before it is used.
struct PairQuantiser {
  Vector correction[8];
  Vector reciprocal[8];
  Vector scale[8];
  Vector threshold[8];

  PairQuantiser(const Quantiser& quantiser, bool has_dead_zone) {
    for (size_t u = 0; u < 8; ++u) {
      correction[u] = load_twice(quantiser.correction + 8 * u);
      reciprocal[u] = load_twice(quantiser.reciprocal + 8 * u);
      scale[u] = load_twice(quantiser.scale + 8 * u);
      if (has_dead_zone) threshold[u] = load_twice(quantiser.threshold + 8 * u);
    }
  }
};

template <bool narrow, bool has_dead_zone>
void quantise_pairs(const int16_t* coefficients, size_t pairs, size_t ahead, const Quantiser& quantiser, Block* blocks,
                    int16_t* levels) {
  const PairQuantiser twice(quantiser, has_dead_zone);
  for (size_t pair = 0; pair < pairs; ++pair, coefficients += kPairSize, blocks += 2, levels += kPairSize) {
    fetch_pair(coefficients + ahead * kPairSize);
    Vector lines[8];
    Vector first = _mm256_setzero_si256();
    Vector bits = _mm256_setzero_si256();
    for (size_t u = 0; u < 8; ++u) {
      const Vector value = load(coefficients + 16 * u);
      const Vector absolute = _mm256_abs_epi16(value);
      const Vector sum = _mm256_add_epi16(absolute, twice.correction[u]);
      const Vector scaled = _mm256_mulhi_epu16(sum, twice.reciprocal[u]);
      Vector magnitude = _mm256_mulhi_epu16(scaled, twice.scale[u]);
      if (has_dead_zone) {
        const Vector is_below = _mm256_cmpgt_epi16(twice.threshold[u], absolute);
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

void quantise(const int16_t* coefficients, size_t pairs, size_t ahead, const Quantiser& quantiser, Block* blocks,
              int16_t* levels) {
  const auto quantise_all = quantiser.has_dead_zone
                                ? (quantiser.narrow ? quantise_pairs<true, true> : quantise_pairs<false, true>)
                                : (quantiser.narrow ? quantise_pairs<true, false> : quantise_pairs<false, false>);
  quantise_all(coefficients, pairs, ahead, quantiser, blocks, levels);
}

// --- entropy coding ---

struct Move {
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

}  // namespace

void avx2_transform(const int8_t* samples, size_t stride, size_t pairs, int16_t* coefficients) {
  transform(samples, stride, pairs, coefficients);
}

void avx2_accumulate_line(const int16_t* coefficients, size_t pairs, size_t u, Sums* sums) {
  accumulate_line(coefficients, pairs, u, sums);
}

uint8_t* avx2_append(const uint8_t* in, size_t bytes, unsigned shift, uint8_t* out) {
  return append(in, bytes, shift, out);
}

const Backend kAvx2Backend = {"avx2",
                              &kAvx2Colour,
                              avx2_transform,
                              accumulate,
                              quantise,
                              quantise_exactly,
                              count_tokens<ByEight<Move>>,
                              write_tokens<ByEight<Move>>,
                              write_counted_tokens,
                              avx2_append,
                              nullptr};

}  // namespace edgejpeg
