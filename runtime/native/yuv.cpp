// Frames that are Y, Cb and Cr already: no matrix, but another range, and chroma of another density.
#include <algorithm>
#include <cstring>

#include "colour.h"

namespace edgejpeg {
namespace {

// Row `y` of a plane of `height` rows, or the last one below it.
const uint8_t* row_of(const uint8_t* plane, ptrdiff_t stride, size_t y, size_t height) {
  return plane + static_cast<ptrdiff_t>(std::min(y, height - 1)) * stride;
}

// Calls convert(in, first, count) for a row's samples, of `bytes` bytes of the row each: the whole groups of it, then a
// copy of the rest as one more.
template <size_t bytes, size_t rows, typename Convert>
void for_each_part(const uint8_t* const (&in)[rows], size_t count, Convert convert) {
  const size_t whole = count / kSampleGroup * kSampleGroup;
  if (whole > 0) convert(in, size_t{0}, whole);
  if (whole == count) return;
  uint8_t rest[rows][bytes * kSampleGroup] = {};
  const uint8_t* copies[rows];
  for (size_t i = 0; i < rows; ++i) {
    std::memcpy(rest[i], in[i] + bytes * whole, bytes * (count - whole));
    copies[i] = rest[i];
  }
  convert(copies, whole, kSampleGroup);
}

void replicate_edge(int8_t* row, size_t width, size_t padded) { std::fill(row + width, row + padded, row[width - 1]); }

// The whole of JPEG's range: only the level is shifted.
void shift_row(const uint8_t* in, ptrdiff_t step, size_t width, int8_t* out) {
  if (step == 1) {
    for (size_t x = 0; x < width; ++x) out[x] = static_cast<int8_t>(in[x] - 128);
  } else {
    for (size_t x = 0; x < width; ++x) out[x] = static_cast<int8_t>(in[static_cast<ptrdiff_t>(x) * step] - 128);
  }
}

class Source {
 public:
  Source(const edgejpeg_image& image, const ColourKernels& kernels)
      : image_(image),
        kernels_(kernels),
        width_(static_cast<size_t>(image.width)),
        height_(static_cast<size_t>(image.height)),
        full_(image.format == EDGEJPEG_LUMA || image.range == EDGEJPEG_FULL_RANGE) {}

  void luma(size_t y, int8_t* out) const {
    const uint8_t* const in = row_of(image_.pixels, image_.row_stride, y, height_);
    const SampleRange& range = full_ ? kFullLuma : kLimitedLuma;
    if (image_.format == EDGEJPEG_YUYV) {
      for_each_part<2>({in}, width_, [&](const uint8_t* const(&row)[1], size_t x, size_t count) {
        kernels_.yuyv_luma(row[0], count, range, out + x);
      });
    } else if (full_) {
      shift_row(in, image_.pixel_stride, width_, out);
    } else {
      plane(in, width_, range, out);
    }
  }

  // Cb and Cr for every second pixel of luma row `y`, or of it and the one below.
  void chroma(size_t y, bool two_rows, int8_t* cb, int8_t* cr) const {
    const size_t width = width_ / 2;
    const SampleRange& range = full_ ? kFullChroma : kLimitedChroma;
    if (image_.format == EDGEJPEG_YUYV) {
      const uint8_t* const first = row_of(image_.pixels, image_.row_stride, y, height_);
      const uint8_t* const second = row_of(image_.pixels, image_.row_stride, two_rows ? y + 1 : y, height_);
      for_each_part<4>({first, second}, width, [&](const uint8_t* const(&rows)[2], size_t x, size_t count) {
        kernels_.yuyv_chroma(rows, count, range, cb + x, cr + x);
      });
      return;
    }
    const auto row = [&](size_t i) { return row_of(image_.chroma[i], image_.chroma_stride[i], y / 2, height_ / 2); };
    if (image_.format == EDGEJPEG_I420) {
      plane(row(0), width, range, cb);
      plane(row(1), width, range, cr);
      return;
    }
    if (image_.format == EDGEJPEG_NV21) std::swap(cb, cr);
    for_each_part<2>({row(0)}, width, [&](const uint8_t* const(&rows)[1], size_t x, size_t count) {
      kernels_.pairs(rows[0], count, range, cb + x, cr + x);
    });
  }

 private:
  void plane(const uint8_t* in, size_t width, const SampleRange& range, int8_t* out) const {
    for_each_part<1>({in}, width, [&](const uint8_t* const(&row)[1], size_t x, size_t count) {
      kernels_.plane(row[0], count, range, out + x);
    });
  }

  const edgejpeg_image& image_;
  const ColourKernels& kernels_;
  size_t width_;
  size_t height_;
  bool full_;
};

}  // namespace

void convert_yuv_mcu_row(const edgejpeg_image& image, const Geometry& geometry, const ColourKernels& kernels,
                         size_t mcu_row, Strip* strip) {
  const Source source(image, kernels);
  const size_t width = geometry.width;
  const size_t stride = Strip::stride(geometry, 0);
  for (size_t line = 0; line < geometry.mcu_height(); ++line) {
    int8_t* const luma = strip->samples[0].data() + line * stride;
    source.luma(mcu_row * geometry.mcu_height() + line, luma);
    replicate_edge(luma, width, stride);
  }
  if (geometry.components == 1) return;
  const size_t vertical = geometry.component[0].vertical;
  const size_t chroma_stride = Strip::stride(geometry, 1);
  for (size_t line = 0; line < 8; ++line) {
    const size_t y = mcu_row * geometry.mcu_height() + line * vertical;
    int8_t* const rows[2] = {strip->samples[1].data() + line * chroma_stride,
                             strip->samples[2].data() + line * chroma_stride};
    if (geometry.component[0].horizontal == 2) {
      source.chroma(y, vertical == 2, rows[0], rows[1]);
      for (int8_t* const row : rows) replicate_edge(row, width / 2, chroma_stride);
      continue;
    }
    source.chroma(y, false, strip->narrow[0].data(), strip->narrow[1].data());
    for (size_t c = 0; c < 2; ++c) {
      const int8_t* const narrow = strip->narrow[c].data();
      for (size_t x = 0; x < width / 2; ++x) rows[c][2 * x] = rows[c][2 * x + 1] = narrow[x];
      replicate_edge(rows[c], width, chroma_stride);
    }
  }
}

}  // namespace edgejpeg
