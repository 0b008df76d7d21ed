// Colour, one pixel after another: what the other back ends compute.
#include <algorithm>

#include "colour_kernels.h"

namespace edgejpeg {
namespace {

struct Pixel {
  int red;
  int green;
  int blue;
};

template <size_t bytes, bool bgr>
inline Pixel pixel_at(const uint8_t* pixels, size_t x) {
  const uint8_t* const p = pixels + bytes * x;
  return {p[bgr ? 2 : 0], p[1], p[bgr ? 0 : 2]};
}

// BT.601 full range in 16-bit fixed point: Y, then Cb and Cr.
inline int8_t luma_sample(const Pixel& p) {
  return static_cast<int8_t>(((19595 * p.red + 38470 * p.green + 7471 * p.blue + 32768) >> 16) - 128);
}

// `sum` is over a cell of 2^log2_pixels pixels. Pure blue and pure red round up to 128, one above what eight bits hold.
// The shift of a negative number is arithmetic on every compiler that is supported.
template <int log2_pixels>
inline void chroma_samples(const Pixel& sum, int8_t* cb, int8_t* cr) {
  constexpr int kHalf = 32768 << log2_pixels;
  constexpr int kShift = 16 + log2_pixels;
  const int blue = (-11059 * sum.red - 21709 * sum.green + 32768 * sum.blue + kHalf) >> kShift;
  const int red = (32768 * sum.red - 27439 * sum.green - 5329 * sum.blue + kHalf) >> kShift;
  *cb = static_cast<int8_t>(std::min(blue, 127));
  *cr = static_cast<int8_t>(std::min(red, 127));
}

template <size_t bytes, bool bgr>
void convert_luma(const uint8_t* pixels, uintptr_t /*ahead*/, size_t count, int8_t* y) {
  for (size_t x = 0; x < count; ++x) y[x] = luma_sample(pixel_at<bytes, bgr>(pixels, x));
}

template <size_t bytes, bool bgr>
void convert_444(const uint8_t* pixels, uintptr_t /*ahead*/, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  convert_luma<bytes, bgr>(pixels, 0, count, y);
  for (size_t x = 0; x < count; ++x) chroma_samples<0>(pixel_at<bytes, bgr>(pixels, x), cb + x, cr + x);
}

template <size_t bytes, bool bgr>
inline void add_pair(const uint8_t* pixels, size_t cell, Pixel* sum) {
  for (size_t x = 2 * cell; x < 2 * cell + 2; ++x) {
    const Pixel p = pixel_at<bytes, bgr>(pixels, x);
    *sum = {sum->red + p.red, sum->green + p.green, sum->blue + p.blue};
  }
}

template <size_t bytes, bool bgr>
void convert_422(const uint8_t* pixels, uintptr_t /*ahead*/, size_t count, int8_t* y, int8_t* cb, int8_t* cr) {
  convert_luma<bytes, bgr>(pixels, 0, count, y);
  for (size_t cell = 0; cell < count / 2; ++cell) {
    Pixel sum = {};
    add_pair<bytes, bgr>(pixels, cell, &sum);
    chroma_samples<1>(sum, cb + cell, cr + cell);
  }
}

template <size_t bytes, bool bgr>
void convert_420(const uint8_t* const pixels[2], uintptr_t /*ahead*/, size_t count, int8_t* const y[2], int8_t* cb,
                 int8_t* cr) {
  for (int row = 0; row < 2; ++row) convert_luma<bytes, bgr>(pixels[row], 0, count, y[row]);
  for (size_t cell = 0; cell < count / 2; ++cell) {
    Pixel sum = {};
    for (int row = 0; row < 2; ++row) add_pair<bytes, bgr>(pixels[row], cell, &sum);
    chroma_samples<2>(sum, cb + cell, cr + cell);
  }
}

template <size_t bytes, bool bgr>
constexpr PixelKernels kPixels = {convert_luma<bytes, bgr>, convert_444<bytes, bgr>, convert_422<bytes, bgr>,
                                  convert_420<bytes, bgr>};

inline int8_t level(int a, int b, const SampleRange& range) {
  const int scaled = ((a + b - 2 * range.zero) * range.weight + 16384) >> 15;
  return static_cast<int8_t>(std::clamp(scaled - range.shift, -128, 127));
}

void convert_plane(const uint8_t* in, size_t count, const SampleRange& range, int8_t* out) {
  for (size_t x = 0; x < count; ++x) out[x] = level(in[x], in[x], range);
}

void convert_pairs(const uint8_t* in, size_t count, const SampleRange& range, int8_t* first, int8_t* second) {
  for (size_t x = 0; x < count; ++x, in += 2) {
    first[x] = level(in[0], in[0], range);
    second[x] = level(in[1], in[1], range);
  }
}

void convert_yuyv_luma(const uint8_t* in, size_t count, const SampleRange& range, int8_t* y) {
  for (size_t x = 0; x < count; ++x) y[x] = level(in[2 * x], in[2 * x], range);
}

void convert_yuyv_chroma(const uint8_t* const in[2], size_t count, const SampleRange& range, int8_t* cb, int8_t* cr) {
  for (size_t x = 0; x < count; ++x) {
    cb[x] = level(in[0][4 * x + 1], in[1][4 * x + 1], range);
    cr[x] = level(in[0][4 * x + 3], in[1][4 * x + 3], range);
  }
}

}  // namespace

const ColourKernels kScalarColour = {{{kPixels<3, false>, kPixels<3, true>}, {kPixels<4, false>, kPixels<4, true>}},
                                     convert_plane,
                                     convert_pairs,
                                     convert_yuyv_luma,
                                     convert_yuyv_chroma};

}  // namespace edgejpeg
