// Colour with NEON: 16 pixels, or 16 samples of a plane, at a time.
#include <arm_neon.h>

#include "colour_kernels.h"

namespace edgejpeg {
namespace {

// --- red, green and blue ---

constexpr size_t kStep = 16;  // pixels of one turn
static_assert(kPixelGroup % kStep == 0);

struct Pixels {
  uint8x16_t red;
  uint8x16_t green;
  uint8x16_t blue;
};

template <size_t bytes, bool bgr>
inline Pixels load_pixels(const uint8_t* p) {
  static_assert(bytes == 3 || bytes == 4);
  if constexpr (bytes == 3) {
    const uint8x16x3_t channels = vld3q_u8(p);
    return {channels.val[bgr ? 2 : 0], channels.val[1], channels.val[bgr ? 0 : 2]};
  } else {
    const uint8x16x4_t channels = vld4q_u8(p);
    return {channels.val[bgr ? 2 : 0], channels.val[1], channels.val[bgr ? 0 : 2]};
  }
}

inline int16x8_t subtract_low(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(a), vget_low_u8(b)));
}
inline int16x8_t subtract_high(uint8x16_t a, uint8x16_t b) { return vreinterpretq_s16_u16(vsubl_high_u8(a, b)); }

// The weights of a colour component sum to 65536 or 0, so that the differences to green are enough:
// Y = G + (19595 (R - G) + 7471 (B - G) + 32768 >> 16).
inline uint8x8_t luma(int16x8_t red, int16x8_t blue, uint8x8_t green) {
  const int32x4_t low = vmlal_n_s16(vmull_n_s16(vget_low_s16(red), 19595), vget_low_s16(blue), 7471);
  const int32x4_t high = vmlal_high_n_s16(vmull_high_n_s16(red, 19595), blue, 7471);
  const int16x8_t above_green = vrshrn_high_n_s32(vrshrn_n_s32(low, 16), high, 16);
  return vmovn_u16(vaddw_u8(vreinterpretq_u16_s16(above_green), green));
}

inline void store_luma(const Pixels& p, int8_t* y) {
  const uint8x8_t low = luma(subtract_low(p.red, p.green), subtract_low(p.blue, p.green), vget_low_u8(p.green));
  const uint8x8_t high = luma(subtract_high(p.red, p.green), subtract_high(p.blue, p.green), vget_high_u8(p.green));
  vst1q_s8(y, vreinterpretq_s8_u8(veorq_u8(vcombine_u8(low, high), vdupq_n_u8(0x80))));
}

// (32768 plus - weight minus + half) >> shift for eight cells of 2^log2_pixels pixels. The saturation turns 128 into
// 127.
template <int log2_pixels, int16_t weight>
inline int8x8_t chroma(int16x8_t plus, int16x8_t minus) {
  const int32x4_t low = vmlsl_n_s16(vshll_n_s16(vget_low_s16(plus), 15), vget_low_s16(minus), weight);
  const int32x4_t high = vmlsl_high_n_s16(vshll_high_n_s16(plus, 15), minus, weight);
  constexpr int kShift = 16 + log2_pixels;
  return vqmovn_s16(vmovn_high_s32(vmovn_s32(vrshrq_n_s32(low, kShift)), vrshrq_n_s32(high, kShift)));
}

// Eight cells from the sums of their pixels' differences.
template <int log2_pixels>
inline void store_cells(int16x8_t red, int16x8_t blue, int8_t* cb, int8_t* cr) {
  vst1_s8(cb, chroma<log2_pixels, 11059>(blue, red));
  vst1_s8(cr, chroma<log2_pixels, 5329>(red, blue));
}

inline int16x8_t subtract(uint16x8_t a, uint16x8_t b) { return vreinterpretq_s16_u16(vsubq_u16(a, b)); }

template <size_t bytes, bool bgr>
void convert_luma(const uint8_t* pixels, uintptr_t ahead, size_t count, int8_t* y) {
  for (size_t x = 0; x < count; x += kStep) {
    if (x % kPixelGroup == 0) fetch_group(pixels + bytes * x, ahead);
    store_luma(load_pixels<bytes, bgr>(pixels + bytes * x), y + x);
  }
}

template <size_t bytes, bool bgr>
void convert_444(const uint8_t* pixels, uintptr_t ahead, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  for (size_t x = 0; x < count; x += kStep) {
    if (x % kPixelGroup == 0) fetch_group(pixels + bytes * x, ahead);
    const Pixels p = load_pixels<bytes, bgr>(pixels + bytes * x);
    store_luma(p, y + x);
    store_cells<0>(subtract_low(p.red, p.green), subtract_low(p.blue, p.green), cb + x, cr + x);
    store_cells<0>(subtract_high(p.red, p.green), subtract_high(p.blue, p.green), cb + x + 8, cr + x + 8);
  }
}

template <size_t bytes, bool bgr>
void convert_422(const uint8_t* pixels, uintptr_t ahead, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  for (size_t x = 0; x < count; x += kStep) {
    if (x % kPixelGroup == 0) fetch_group(pixels + bytes * x, ahead);
    const Pixels p = load_pixels<bytes, bgr>(pixels + bytes * x);
    store_luma(p, y + x);
    const uint16x8_t green = vpaddlq_u8(p.green);
    store_cells<1>(subtract(vpaddlq_u8(p.red), green), subtract(vpaddlq_u8(p.blue), green), cb + x / 2, cr + x / 2);
  }
}

template <size_t bytes, bool bgr>
void convert_420(const uint8_t* const pixels[2], uintptr_t ahead, size_t count, int8_t* const y[2], int8_t* cb,
                 int8_t* cr) {
  for (size_t x = 0; x < count; x += kStep) {
    if (x % kPixelGroup == 0) {
      fetch_group(pixels[0] + bytes * x, ahead);
      fetch_group(pixels[1] + bytes * x, ahead);
    }
    const Pixels upper = load_pixels<bytes, bgr>(pixels[0] + bytes * x);
    const Pixels lower = load_pixels<bytes, bgr>(pixels[1] + bytes * x);
    store_luma(upper, y[0] + x);
    store_luma(lower, y[1] + x);
    const auto sum = [](uint8x16_t a, uint8x16_t b) { return vpadalq_u8(vpaddlq_u8(a), b); };
    const uint16x8_t green = sum(upper.green, lower.green);
    store_cells<2>(subtract(sum(upper.red, lower.red), green), subtract(sum(upper.blue, lower.blue), green), cb + x / 2,
                   cr + x / 2);
  }
}

template <size_t bytes, bool bgr>
constexpr PixelKernels kPixels = {convert_luma<bytes, bgr>, convert_444<bytes, bgr>, convert_422<bytes, bgr>,
                                  convert_420<bytes, bgr>};

// --- planes ---

class Levels {
 public:
  explicit Levels(const SampleRange& range)
      : zero_(vdupq_n_s16(static_cast<int16_t>(2 * range.zero))),
        shift_(vdupq_n_s16(range.shift)),
        weight_(range.weight) {}

  // Of sums of two samples, clamped.
  int8x8_t of_sums(uint16x8_t sums) const {
    const int16x8_t above = vsubq_s16(vreinterpretq_s16_u16(sums), zero_);
    return vqmovn_s16(vsubq_s16(vqrdmulhq_n_s16(above, weight_), shift_));
  }
  int8x16_t of_samples(uint8x16_t samples) const {
    return vcombine_s8(of_sums(vshll_n_u8(vget_low_u8(samples), 1)), of_sums(vshll_high_n_u8(samples, 1)));
  }
  int8x16_t of_means(uint8x16_t a, uint8x16_t b) const {
    return vcombine_s8(of_sums(vaddl_u8(vget_low_u8(a), vget_low_u8(b))), of_sums(vaddl_high_u8(a, b)));
  }

 private:
  int16x8_t zero_;
  int16x8_t shift_;
  int16_t weight_;
};

void convert_plane(const uint8_t* in, size_t count, const SampleRange& range, int8_t* out) {
  const Levels levels(range);
  for (size_t x = 0; x < count; x += kSampleGroup) vst1q_s8(out + x, levels.of_samples(vld1q_u8(in + x)));
}

void convert_pairs(const uint8_t* in, size_t count, const SampleRange& range, int8_t* first, int8_t* second) {
  const Levels levels(range);
  for (size_t x = 0; x < count; x += kSampleGroup) {
    const uint8x16x2_t both = vld2q_u8(in + 2 * x);
    vst1q_s8(first + x, levels.of_samples(both.val[0]));
    vst1q_s8(second + x, levels.of_samples(both.val[1]));
  }
}

void convert_yuyv_luma(const uint8_t* in, size_t count, const SampleRange& range, int8_t* y) {
  const Levels levels(range);
  for (size_t x = 0; x < count; x += kSampleGroup) vst1q_s8(y + x, levels.of_samples(vld2q_u8(in + 2 * x).val[0]));
}

void convert_yuyv_chroma(const uint8_t* const in[2], size_t count, const SampleRange& range, int8_t* cb, int8_t* cr) {
  const Levels levels(range);
  for (size_t x = 0; x < count; x += kSampleGroup) {
    const uint8x16x4_t upper = vld4q_u8(in[0] + 4 * x);
    const uint8x16x4_t lower = vld4q_u8(in[1] + 4 * x);
    vst1q_s8(cb + x, levels.of_means(upper.val[1], lower.val[1]));
    vst1q_s8(cr + x, levels.of_means(upper.val[3], lower.val[3]));
  }
}

}  // namespace

const ColourKernels kNeonColour = {{{kPixels<3, false>, kPixels<3, true>}, {kPixels<4, false>, kPixels<4, true>}},
                                   convert_plane,
                                   convert_pairs,
                                   convert_yuyv_luma,
                                   convert_yuyv_chroma};

}  // namespace edgejpeg
