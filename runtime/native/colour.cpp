#include "colour.h"

#include <algorithm>

namespace edgejpeg {
namespace {

// BT.601 full range in 16-bit fixed point: Y, then Cb and Cr.
inline int8_t luma_sample(int red, int green, int blue) {
  return static_cast<int8_t>(((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16) - 128);
}

// `red`, `green`, `blue` are sums over a cell of 2^log2_pixels pixels. Pure blue and pure red round up to 128, one
// above what eight bits hold. The shift of a negative number is arithmetic on every compiler that is supported.
template <int log2_pixels>
inline void chroma_samples(int red, int green, int blue, int8_t* cb, int8_t* cr) {
  constexpr int kHalf = 32768 << log2_pixels;
  constexpr int kShift = 16 + log2_pixels;
  *cb = static_cast<int8_t>(std::min((-11059 * red - 21709 * green + 32768 * blue + kHalf) >> kShift, 127));
  *cr = static_cast<int8_t>(std::min((32768 * red - 27439 * green - 5329 * blue + kHalf) >> kShift, 127));
}

// Copies row `y` (or the last one, below the frame) to planes of `padded` samples, replicating the last pixel.
void gather_row(const edgejpeg_image& image, size_t y, size_t padded, size_t planes, uint8_t* out) {
  const size_t width = static_cast<size_t>(image.width);
  const size_t row = std::min(y, static_cast<size_t>(image.height) - 1);
  const uint8_t* first = image.pixels + static_cast<ptrdiff_t>(row) * image.row_stride;
  for (size_t plane = 0; plane < planes; ++plane, out += padded) {
    const uint8_t* in = first + (image.format == EDGEJPEG_BGR ? planes - 1 - plane : plane);
    for (size_t x = 0; x < width; ++x, in += image.pixel_stride) out[x] = *in;
    std::fill(out + width, out + padded, out[width - 1]);
  }
}

void convert_luma(const uint8_t* pixels, size_t padded, size_t planes, int8_t* out) {
  if (planes == 1) {
    for (size_t x = 0; x < padded; ++x) out[x] = static_cast<int8_t>(pixels[x] - 128);
    return;
  }
  const uint8_t* red = pixels;
  const uint8_t* green = red + padded;
  const uint8_t* blue = green + padded;
  for (size_t x = 0; x < padded; ++x) out[x] = luma_sample(red[x], green[x], blue[x]);
}

template <int vertical, int horizontal>
void convert_chroma(const uint8_t* pixels, size_t padded, int8_t* cb, int8_t* cr) {
  constexpr int kLog2Pixels = vertical * horizontal == 4 ? 2 : vertical * horizontal == 2 ? 1 : 0;
  for (size_t cell = 0; cell < padded / horizontal; ++cell) {
    int sums[3] = {0, 0, 0};
    for (size_t plane = 0; plane < 3; ++plane) {
      for (size_t row = 0; row < vertical; ++row) {
        const uint8_t* in = pixels + (row * 3 + plane) * padded + cell * horizontal;
        for (size_t x = 0; x < horizontal; ++x) sums[plane] += in[x];
      }
    }
    chroma_samples<kLog2Pixels>(sums[0], sums[1], sums[2], cb + cell, cr + cell);
  }
}

}  // namespace

bool Strip::reserve(const Geometry& geometry) {
  const size_t padded = geometry.padded_width();
  if (!pixels.reserve(geometry.component[0].vertical * 3 * padded)) return false;
  if (!samples[0].reserve(geometry.mcu_height() * padded)) return false;
  for (size_t c = 1; c < geometry.components; ++c) {
    if (!samples[c].reserve(8 * stride(geometry, c))) return false;
  }
  return true;
}

void convert_mcu_row(const edgejpeg_image& image, const Geometry& geometry, size_t mcu_row, Strip* strip) {
  const size_t padded = geometry.padded_width();
  const size_t planes = image.format == EDGEJPEG_LUMA ? 1 : 3;
  const size_t vertical = geometry.component[0].vertical;
  const size_t horizontal = geometry.component[0].horizontal;
  uint8_t* const pixels = strip->pixels.data();
  for (size_t cell_row = 0; cell_row < 8; ++cell_row) {
    for (size_t i = 0; i < vertical; ++i) {
      const size_t row = cell_row * vertical + i;
      uint8_t* const gathered = pixels + i * 3 * padded;
      gather_row(image, mcu_row * geometry.mcu_height() + row, padded, planes, gathered);
      convert_luma(gathered, padded, planes, strip->samples[0].data() + row * padded);
    }
    if (geometry.components == 1) continue;
    int8_t* const cb = strip->samples[1].data() + cell_row * Strip::stride(geometry, 1);
    int8_t* const cr = strip->samples[2].data() + cell_row * Strip::stride(geometry, 2);
    if (vertical == 2) {
      convert_chroma<2, 2>(pixels, padded, cb, cr);
    } else if (horizontal == 2) {
      convert_chroma<1, 2>(pixels, padded, cb, cr);
    } else {
      convert_chroma<1, 1>(pixels, padded, cb, cr);
    }
  }
}

}  // namespace edgejpeg
