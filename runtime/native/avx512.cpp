// The AVX-512 back end, for processors with VBMI, VBMI2 and VNNI (Ice Lake, Zen 4): where one instruction moves any of
// 64 bytes to any place, or those that are wanted to the front, or sums up products. The other stages are those of
// AVX2.
#include <immintrin.h>

#include "avx2.h"
#include "backend.h"
#include "token_kernel.h"

namespace edgejpeg {
namespace {

using Vector = __m512i;

inline Vector load(const void* p) { return _mm512_loadu_si512(p); }
inline void store(void* p, Vector v) { _mm512_storeu_si512(p, v); }

// --- statistics ---

// The DCs in the first register of a pair, and where they come to lie when two pairs are unpacked to dwords.
constexpr __mmask32 kDcWords = 1 | 1 << 8;
constexpr __mmask16 kDcDwords = 1 | 1 << 4;

// Sums of DCs in those dwords; squares have 64 bits.
struct DcSums {
  Vector value = _mm512_setzero_si512();
  Vector magnitude = _mm512_setzero_si512();
  Vector square = _mm512_setzero_si512();

  // Two values side by side. Two squares of at most 30900: below 2^31.
  void add(Vector v) {
    const Vector one = _mm512_set1_epi16(1);
    value = _mm512_dpwssd_epi32(value, v, one);
    magnitude = _mm512_dpwssd_epi32(magnitude, _mm512_abs_epi16(v), one);
    square = _mm512_add_epi64(square, _mm512_maskz_madd_epi16(kDcDwords, v, v));
  }

  void add_to(Sums* sums) const {
    alignas(64) int32_t values[16];
    alignas(64) int32_t magnitudes[16];
    alignas(64) int64_t squares[8];
    store(values, value);
    store(magnitudes, magnitude);
    store(squares, square);
    sums->value[0] += values[0] + values[4];
    sums->magnitude[0] += magnitudes[0] + magnitudes[4];
    sums->square[0] += squares[0] + squares[2];
  }
};

template <int half>
inline __m256i half_of(Vector v) {
  return _mm512_maskz_extracti64x4_epi64(0xFF, v, half);
}

// Adds 16 lanes of 32 bits to as many sums.
inline void add_signed(Vector lanes, int64_t* sums) {
  store(sums, _mm512_add_epi64(load(sums), _mm512_maskz_cvtepi32_epi64(0xFF, half_of<0>(lanes))));
  store(sums + 8, _mm512_add_epi64(load(sums + 8), _mm512_maskz_cvtepi32_epi64(0xFF, half_of<1>(lanes))));
}

inline void add_unsigned(Vector lanes, int64_t* sums) {
  store(sums, _mm512_add_epi64(load(sums), _mm512_maskz_cvtepu32_epi64(0xFF, half_of<0>(lanes))));
  store(sums + 8, _mm512_add_epi64(load(sums + 8), _mm512_maskz_cvtepu32_epi64(0xFF, half_of<1>(lanes))));
}

// Adds 16-bit lanes in the layout of the coefficients, those of the two blocks together.
inline void add_words(Vector lanes, int64_t* sums) {
  const Vector by_block = _mm512_maskz_permutexvar_epi64(0xFF, _mm512_setr_epi64(0, 1, 4, 5, 2, 3, 6, 7), lanes);
  add_signed(_mm512_add_epi32(_mm512_maskz_cvtepi16_epi32(0xFFFF, half_of<0>(by_block)),
                              _mm512_maskz_cvtepi16_epi32(0xFFFF, half_of<1>(by_block))),
             sums);
}

// Horizontal frequencies u and u + 1 of all pairs where their magnitudes are as small as accumulate_narrow of AVX2 has
// them, DC apart. False, and nothing is added, where they are not.
template <bool has_dc>
bool accumulate_lines(const int16_t* lines, size_t pairs, size_t u, Sums* sums) {
  Vector value = _mm512_setzero_si512();
  Vector magnitude = value;
  Vector low_square = value;
  Vector high_square = value;
  DcSums dc;
  const auto add = [&](Vector a, Vector b) __attribute__((always_inline)) {
    value = _mm512_add_epi16(value, _mm512_add_epi16(a, b));
    magnitude = _mm512_adds_epu16(magnitude, _mm512_adds_epu16(_mm512_abs_epi16(a), _mm512_abs_epi16(b)));
    const Vector low = _mm512_unpacklo_epi16(a, b);
    const Vector high = _mm512_unpackhi_epi16(a, b);
    low_square = _mm512_dpwssd_epi32(low_square, low, low);
    high_square = _mm512_dpwssd_epi32(high_square, high, high);
    if (has_dc) dc.add(low);
  };
  for (; pairs >= 2; pairs -= 2, lines += 2 * kPairSize) add(load(lines), load(lines + kPairSize));
  if (pairs > 0) add(load(lines), _mm512_setzero_si512());
  if (has_dc) {
    value = _mm512_maskz_mov_epi16(~kDcWords, value);
    magnitude = _mm512_maskz_mov_epi16(~kDcWords, magnitude);
    low_square = _mm512_maskz_mov_epi32(static_cast<__mmask16>(~kDcDwords), low_square);
  }
  if (__builtin_expect(_mm512_movepi16_mask(magnitude) != 0, 0)) return false;
  add_words(value, sums->value + 8 * u);
  add_words(magnitude, sums->magnitude + 8 * u);
  // Low: vertical frequencies 0 to 3; high: 4 to 7.
  const Vector first = _mm512_permutex2var_epi64(low_square, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high_square);
  const Vector second =
      _mm512_permutex2var_epi64(low_square, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), high_square);
  add_unsigned(_mm512_add_epi32(first, second), sums->square + 8 * u);
  if (has_dc) dc.add_to(sums);
  return true;
}

void accumulate(const int16_t* coefficients, size_t pairs, Sums* sums) {
  for (size_t u = 0; u < 8; u += 2) {
    const int16_t* const lines = coefficients + 16 * u;
    const auto accumulate_both = u == 0 ? accumulate_lines<true> : accumulate_lines<false>;
    if (accumulate_both(lines, pairs, u, sums)) continue;
    avx2_accumulate_line(coefficients, pairs, u, sums);
    avx2_accumulate_line(coefficients, pairs, u + 1, sums);
  }
}

// --- quantization ---

// Two horizontal frequencies of two blocks share a register.
constexpr size_t kVectors = 4;

// From the transposed order, as bytes of two registers after the packing, to zigzag order.
struct ZigzagIndex {
  alignas(64) uint8_t index[2][kBlockSize] = {};  // [block]

  constexpr ZigzagIndex() {
    for (size_t k = 0; k < kBlockSize; ++k) {
      const size_t from = transpose_index(kZigzag[k]);
      const size_t u = from / 8;
      for (size_t block = 0; block < 2; ++block) {
        // Packing puts u and u + 2 of a block side by side, in a quarter of a register.
        index[block][k] = static_cast<uint8_t>(u / 4 * 64 + u % 2 * 32 + block * 16 + u / 2 % 2 * 8 + from % 8);
      }
    }
  }
};

constexpr ZigzagIndex kZigzagIndex;

// Lines 2 * i and 2 * i + 1 of a table, each for two blocks.
inline Vector load_lines(const void* table, size_t i) {
  const __m256i lines = _mm256_load_si256(static_cast<const __m256i*>(table) + i);
  // In this file some forms with a mask that chooses all: of the definitions of the others GCC 12 warns.
  const Vector both = _mm512_maskz_broadcast_i64x4(0xFF, lines);
  return _mm512_maskz_permutexvar_epi64(0xFF, _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), both);
}

[[gnu::noinline]] void store_wide_levels(const Vector* lines, int16_t* levels) {
  alignas(64) int16_t values[kPairSize];
  for (size_t i = 0; i < kVectors; ++i) store(values + 32 * i, lines[i]);
  for (size_t half = 0; half < 2; ++half) {
    for (size_t k = 0; k < kBlockSize; ++k) {
      const size_t from = transpose_index(kZigzag[k]);
      levels[half * kBlockSize + k] = values[from / 8 * 16 + half * 8 + from % 8];
    }
  }
}

template <int block>
inline int dc_of(Vector first_lines) {
  return _mm_cvtsi128_si32(_mm512_maskz_extracti32x4_epi32(0xF, first_lines, block));
}

inline void store_block(Vector levels, int dc, uint8_t wide, Block* block) {
  store(block->levels, levels);
  block->levels[kBlockSize] = 0;
  block->wide = wide;
  block->dc = static_cast<int16_t>(dc);
  block->mask = _cvtmask64_u64(_mm512_test_epi8_mask(levels, levels)) & ~uint64_t{1};
}

template <bool narrow, bool has_dead_zone>
void quantise_pairs(const int16_t* coefficients, size_t pairs, size_t ahead, const Quantiser& quantiser, Block* blocks,
                    int16_t* levels) {
  Vector correction[kVectors];
  Vector reciprocal[kVectors];
  Vector scale[kVectors];
  Vector threshold[kVectors];
  for (size_t i = 0; i < kVectors; ++i) {
    correction[i] = load_lines(quantiser.correction, i);
    reciprocal[i] = load_lines(quantiser.reciprocal, i);
    scale[i] = load_lines(quantiser.scale, i);
    if (has_dead_zone) threshold[i] = load_lines(quantiser.threshold, i);
  }
  const Vector zero = _mm512_setzero_si512();
  const Vector large = _mm512_set1_epi16(~127);
  constexpr __mmask32 kAllButDc = ~__mmask32{1 | 1 << 8};
  for (size_t pair = 0; pair < pairs; ++pair, coefficients += kPairSize, blocks += 2, levels += kPairSize) {
    fetch_pair(coefficients + ahead * kPairSize);
    Vector lines[kVectors];
    Vector bits = zero;
    for (size_t i = 0; i < kVectors; ++i) {
      const Vector value = load(coefficients + 32 * i);
      const Vector absolute = _mm512_abs_epi16(value);
      const Vector scaled = _mm512_mulhi_epu16(_mm512_add_epi16(absolute, correction[i]), reciprocal[i]);
      Vector magnitude = _mm512_mulhi_epu16(scaled, scale[i]);
      if (has_dead_zone) {
        magnitude = _mm512_maskz_mov_epi16(_mm512_cmpge_epi16_mask(absolute, threshold[i]), magnitude);
      }
      bits = _mm512_or_si512(bits, i == 0 ? _mm512_maskz_mov_epi16(kAllButDc, magnitude) : magnitude);
      lines[i] = _mm512_mask_sub_epi16(magnitude, _mm512_movepi16_mask(value), zero, magnitude);
    }
    const bool wide = !narrow && __builtin_expect(_mm512_test_epi16_mask(bits, large) != 0, 0);
    if (wide) store_wide_levels(lines, levels);
    const Vector low = _mm512_packs_epi16(lines[0], lines[1]);
    const Vector high = _mm512_packs_epi16(lines[2], lines[3]);
    const auto flag = static_cast<uint8_t>(wide ? 1 : 0);
    store_block(_mm512_permutex2var_epi8(low, load(kZigzagIndex.index[0]), high), dc_of<0>(lines[0]), flag, blocks);
    store_block(_mm512_permutex2var_epi8(low, load(kZigzagIndex.index[1]), high), dc_of<1>(lines[0]), flag, blocks + 1);
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

struct Places {
  alignas(64) uint8_t place[kBlockSize] = {};

  constexpr Places() {
    for (size_t k = 0; k < kBlockSize; ++k) place[k] = static_cast<uint8_t>(k);
  }
};

constexpr Places kPlaces;

struct Compact {
  [[gnu::always_inline]] static inline size_t collect(const int8_t* levels, uint64_t mask, uint8_t base, uint8_t* level,
                                                      uint8_t* place) {
    const __mmask64 chosen = _cvtu64_mask64(mask);
    const Vector places = _mm512_or_si512(load(kPlaces.place), _mm512_set1_epi8(static_cast<char>(base)));
    // Not into memory: that form is slow on Zen 4.
    store(level, _mm512_maskz_compress_epi8(chosen, load(levels)));
    store(place, _mm512_maskz_compress_epi8(chosen, places));
    return static_cast<size_t>(__builtin_popcountll(mask));
  }
};

}  // namespace

// A constant, made by the compiler: code that fills it would run before the processor was asked.
const Backend kAvx512Backend = {
    "avx512",         &kAvx2Colour,          avx2_transform,        accumulate,           quantise,
    quantise_exactly, count_tokens<Compact>, write_tokens<Compact>, write_counted_tokens, avx2_append,
    nullptr};

}  // namespace edgejpeg
