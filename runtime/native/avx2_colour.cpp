// Colour with AVX2: 32 pixels, or 16 samples of a plane, at a time.
#include <immintrin.h>

#include "colour_kernels.h"

namespace edgejpeg {
namespace {

using Vector = __m256i;

inline Vector load(const void* p) { return _mm256_loadu_si256(static_cast<const Vector*>(p)); }
inline Vector load_twice(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline Vector load_halves(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low))),
                                 _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}
inline void store(void* p, Vector v) { _mm256_storeu_si256(static_cast<Vector*>(p), v); }

inline void store_half(void* p, __m128i v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
inline void store_halves(Vector v, void* low, void* high) {
  store_half(low, _mm256_castsi256_si128(v));
  store_half(high, _mm256_extracti128_si256(v, 1));
}

// --- red, green and blue ---

struct Channels {
  Vector channel[3];
};

struct Pixels {
  Vector red;
  Vector green;
  Vector blue;
};

// Byte i of a result comes from `chosen` where mask i is set.
inline Vector choose(Vector other, Vector chosen, Vector mask) { return _mm256_blendv_epi8(other, chosen, mask); }

// 32 pixels, 16 in each half: byte i of the three loaded vectors holds channel i, i + 1 and i + 2 modulo 3.
inline Channels load_channels_of_3(const uint8_t* p) {
  alignas(16) static constexpr uint8_t kModulo0[16] = {255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 255};
  alignas(16) static constexpr uint8_t kModulo1[16] = {0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0};
  alignas(16) static constexpr uint8_t kOrder[3][16] = {{0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13},
                                                        {1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14},
                                                        {2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15}};
  const Vector a = load_halves(p, p + 48);
  const Vector b = load_halves(p + 16, p + 64);
  const Vector c = load_halves(p + 32, p + 80);
  const Vector is_0 = load_twice(kModulo0);
  const Vector is_1 = load_twice(kModulo1);
  const Vector first = choose(choose(b, a, is_0), c, is_1);
  const Vector second = choose(choose(c, a, is_1), b, is_0);
  const Vector third = choose(choose(a, b, is_1), c, is_0);
  return {{_mm256_shuffle_epi8(first, load_twice(kOrder[0])), _mm256_shuffle_epi8(second, load_twice(kOrder[1])),
           _mm256_shuffle_epi8(third, load_twice(kOrder[2]))}};
}

// The same of pixels of four bytes: the bytes of four pixels by channel, then the fours by channel.
inline Channels load_channels_of_4(const uint8_t* p) {
  alignas(16) static constexpr uint8_t kOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const Vector order = load_twice(kOrder);
  const auto part = [=](size_t offset) { return _mm256_shuffle_epi8(load_halves(p + offset, p + 64 + offset), order); };
  const Vector a = part(0);
  const Vector b = part(16);
  const Vector c = part(32);
  const Vector d = part(48);
  const Vector low01 = _mm256_unpacklo_epi32(a, b);
  const Vector low23 = _mm256_unpacklo_epi32(c, d);
  return {{_mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
           _mm256_unpacklo_epi64(_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d))}};
}

template <size_t bytes, bool bgr>
inline Pixels load_pixels(const uint8_t* p) {
  static_assert(bytes == 3 || bytes == 4);
  const Channels c = bytes == 3 ? load_channels_of_3(p) : load_channels_of_4(p);
  return {c.channel[bgr ? 2 : 0], c.channel[1], c.channel[bgr ? 0 : 2]};
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
  store_halves(_mm256_permute4x64_epi64(both, 0xD8), cb, cr);
}

inline Vector add_neighbours(Vector bytes) { return _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)); }

template <size_t bytes, bool bgr>
void convert_luma(const uint8_t* pixels, uintptr_t ahead, size_t count, int8_t* y) {
  for (size_t x = 0; x < count; x += kPixelGroup) {
    fetch_group(pixels + bytes * x, ahead);
    const Pixels p = load_pixels<bytes, bgr>(pixels + bytes * x);
    store_luma(differences(p), p.green, y + x);
  }
}

template <size_t bytes, bool bgr>
void convert_444(const uint8_t* pixels, uintptr_t ahead, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  for (size_t x = 0; x < count; x += kPixelGroup) {
    fetch_group(pixels + bytes * x, ahead);
    const Pixels p = load_pixels<bytes, bgr>(pixels + bytes * x);
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

template <size_t bytes, bool bgr>
void convert_422(const uint8_t* pixels, uintptr_t ahead, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  for (size_t x = 0; x < count; x += kPixelGroup) {
    fetch_group(pixels + bytes * x, ahead);
    const Pixels p = load_pixels<bytes, bgr>(pixels + bytes * x);
    store_luma(differences(p), p.green, y + x);
    const Vector green = add_neighbours(p.green);
    store_cells<1>(_mm256_sub_epi16(add_neighbours(p.red), green), _mm256_sub_epi16(add_neighbours(p.blue), green),
                   cb + x / 2, cr + x / 2);
  }
}

template <size_t bytes, bool bgr>
void convert_420(const uint8_t* const pixels[2], uintptr_t ahead, size_t count, int8_t* const y[2], int8_t* cb,
                 int8_t* cr) {
  for (size_t x = 0; x < count; x += kPixelGroup) {
    fetch_group(pixels[0] + bytes * x, ahead);
    fetch_group(pixels[1] + bytes * x, ahead);
    const Pixels upper = load_pixels<bytes, bgr>(pixels[0] + bytes * x);
    store_luma(differences(upper), upper.green, y[0] + x);
    const Pixels lower = load_pixels<bytes, bgr>(pixels[1] + bytes * x);
    store_luma(differences(lower), lower.green, y[1] + x);
    const auto sum = [](Vector a, Vector b) { return _mm256_add_epi16(add_neighbours(a), add_neighbours(b)); };
    const Vector green = sum(upper.green, lower.green);
    store_cells<2>(_mm256_sub_epi16(sum(upper.red, lower.red), green),
                   _mm256_sub_epi16(sum(upper.blue, lower.blue), green), cb + x / 2, cr + x / 2);
  }
}

template <size_t bytes, bool bgr>
constexpr PixelKernels kPixels = {convert_luma<bytes, bgr>, convert_444<bytes, bgr>, convert_422<bytes, bgr>,
                                  convert_420<bytes, bgr>};

// --- planes ---

class Levels {
 public:
  explicit Levels(const SampleRange& range)
      : zero_(_mm256_set1_epi16(static_cast<int16_t>(2 * range.zero))),
        weight_(_mm256_set1_epi16(range.weight)),
        shift_(_mm256_set1_epi16(range.shift)) {}

  // Of sums of two samples; what is outside of eight bits is clamped when it is packed.
  Vector of_sums(Vector sums) const {
    return _mm256_sub_epi16(_mm256_mulhrs_epi16(_mm256_sub_epi16(sums, zero_), weight_), shift_);
  }
  Vector of_samples(Vector samples) const { return of_sums(_mm256_add_epi16(samples, samples)); }

 private:
  Vector zero_;
  Vector weight_;
  Vector shift_;
};

inline Vector even_bytes(Vector v) { return _mm256_and_si256(v, _mm256_set1_epi16(0xFF)); }
inline Vector odd_bytes(Vector v) { return _mm256_srli_epi16(v, 8); }

// First all of one, then all of the other.
inline Vector pack(Vector first, Vector second) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xD8);
}

void convert_plane(const uint8_t* in, size_t count, const SampleRange& range, int8_t* out) {
  const Levels levels(range);
  for (size_t x = 0; x < count; x += kSampleGroup) {
    const __m128i samples = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + x));
    const Vector level = levels.of_samples(_mm256_cvtepu8_epi16(samples));
    store_half(out + x, _mm256_castsi256_si128(pack(level, level)));
  }
}

void convert_pairs(const uint8_t* in, size_t count, const SampleRange& range, int8_t* first, int8_t* second) {
  const Levels levels(range);
  for (size_t x = 0; x < count; x += kSampleGroup) {
    const Vector both = load(in + 2 * x);
    store_halves(pack(levels.of_samples(even_bytes(both)), levels.of_samples(odd_bytes(both))), first + x, second + x);
  }
}

void convert_yuyv_luma(const uint8_t* in, size_t count, const SampleRange& range, int8_t* y) {
  const Levels levels(range);
  for (size_t x = 0; x < count; x += kSampleGroup) {
    const Vector level = levels.of_samples(even_bytes(load(in + 2 * x)));
    store_half(y + x, _mm256_castsi256_si128(pack(level, level)));
  }
}

void convert_yuyv_chroma(const uint8_t* const in[2], size_t count, const SampleRange& range, int8_t* cb, int8_t* cr) {
  // Of Cb 0, Cr 0 to Cr 3, Cb 8 to Cr 11 in one half, and of those between and behind in the other.
  alignas(16) static constexpr uint8_t kSplit[16] = {0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};
  const Vector order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const Levels levels(range);
  for (size_t x = 0; x < count; x += kSampleGroup) {
    const auto eight = [&](size_t offset) {
      return levels.of_sums(
          _mm256_add_epi16(odd_bytes(load(in[0] + 4 * x + offset)), odd_bytes(load(in[1] + 4 * x + offset))));
    };
    const Vector split = _mm256_shuffle_epi8(_mm256_packs_epi16(eight(0), eight(32)), load_twice(kSplit));
    store_halves(_mm256_permutevar8x32_epi32(split, order), cb + x, cr + x);
  }
}

}  // namespace

const ColourKernels kAvx2Colour = {{{kPixels<3, false>, kPixels<3, true>}, {kPixels<4, false>, kPixels<4, true>}},
                                   convert_plane,
                                   convert_pairs,
                                   convert_yuyv_luma,
                                   convert_yuyv_chroma};

}  // namespace edgejpeg
