// Frames that are Y, Cb and Cr already: no matrix, but another range, and chroma of another density.
#include <algorithm>
#include <cstring>

#include "colour.h"

namespace edgejpeg {
namespace {

// As for pixels, in colour.cpp: how far ahead samples are fetched, and how many between two fetches.
constexpr size_t kFetchAhead = 3072;
constexpr size_t kChunk = 8 * kSampleGroup;
constexpr size_t kCacheLine = 64;

// Row `y` of a plane of `height` rows, or the last one below it.
const uint8_t* row_of(const uint8_t* plane, ptrdiff_t stride, size_t y, size_t height) {
  return plane + static_cast<ptrdiff_t>(std::min(y, height - 1)) * stride;
}

// Calls convert(in, first, count) for a row's samples, of `bytes` bytes of the row each: the whole groups of it, then a
// copy of the rest as one more. Meanwhile the rows of `ahead` are fetched.
template <size_t bytes, size_t rows, typename Convert>
void for_each_part(const uint8_t* const (&in)[rows], const uint8_t* const (&ahead)[rows], size_t count,
                   Convert convert) {
  const size_t whole = count / kSampleGroup * kSampleGroup;
  for (size_t x = 0; x < whole; x += kChunk) {
    const size_t part = std::min(kChunk, whole - x);
    const uint8_t* chunk[rows];
    for (size_t i = 0; i < rows; ++i) {
      chunk[i] = in[i] + bytes * x;
      for (size_t at = 0; at < bytes * part; at += kCacheLine) __builtin_prefetch(ahead[i] + bytes * x + at);
    }
    convert(chunk, x, part);
  }
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
inline int8_t shift_level(uint8_t sample) { return static_cast<int8_t>(sample - 128); }

class Source {
 public:
  Source(const edgejpeg_image& image, const ColourKernels& kernels)
      : image_(image),
        kernels_(kernels),
        width_(static_cast<size_t>(image.width)),
        height_(static_cast<size_t>(image.height)),
        full_(image.format == EDGEJPEG_LUMA || image.range == EDGEJPEG_FULL_RANGE) {}

  // `next`: the row that will be converted some rows later.
  void luma(size_t y, size_t next, int8_t* out) const {
    const uint8_t* const in = row_of(image_.pixels, image_.row_stride, y, height_);
    const uint8_t* const ahead = row_of(image_.pixels, image_.row_stride, next, height_);
    if (image_.format == EDGEJPEG_YUYV) {
      const SampleRange& range = full_ ? kFullLuma : kLimitedLuma;
      for_each_part<2>({in}, {ahead}, width_, [&](const uint8_t* const(&row)[1], size_t x, size_t count) {
        kernels_.yuyv_luma(row[0], count, range, out + x);
      });
    } else if (!full_) {
      plane(in, ahead, width_, kLimitedLuma, out);
    } else if (image_.pixel_stride == 1) {
      for_each_part<1>({in}, {ahead}, width_, [&](const uint8_t* const(&row)[1], size_t x, size_t count) {
        std::transform(row[0], row[0] + count, out + x, shift_level);
      });
    } else {
      for (size_t x = 0; x < width_; ++x) out[x] = shift_level(in[static_cast<ptrdiff_t>(x) * image_.pixel_stride]);
    }
  }

  // Cb and Cr for every second pixel of luma row `y`, or of it and the one below.
  void chroma(size_t y, size_t next, bool two_rows, int8_t* cb, int8_t* cr) const {
    const size_t width = width_ / 2;
    const SampleRange& range = full_ ? kFullChroma : kLimitedChroma;
    if (image_.format == EDGEJPEG_YUYV) {  // whose rows were fetched for luma
      const uint8_t* const first = row_of(image_.pixels, image_.row_stride, y, height_);
      const uint8_t* const second = row_of(image_.pixels, image_.row_stride, two_rows ? y + 1 : y, height_);
      for_each_part<4>({first, second}, {first, second}, width,
                       [&](const uint8_t* const(&rows)[2], size_t x, size_t count) {
                         kernels_.yuyv_chroma(rows, count, range, cb + x, cr + x);
                       });
      return;
    }
    const auto row = [&](size_t i, size_t luma_row) {
      return row_of(image_.chroma[i], image_.chroma_stride[i], luma_row / 2, height_ / 2);
    };
    if (image_.format == EDGEJPEG_I420) {
      plane(row(0, y), row(0, next), width, range, cb);
      plane(row(1, y), row(1, next), width, range, cr);
      return;
    }
    if (image_.format == EDGEJPEG_NV21) std::swap(cb, cr);
    for_each_part<2>({row(0, y)}, {row(0, next)}, width, [&](const uint8_t* const(&rows)[1], size_t x, size_t count) {
      kernels_.pairs(rows[0], count, range, cb + x, cr + x);
    });
  }

 private:
  void plane(const uint8_t* in, const uint8_t* ahead, size_t width, const SampleRange& range, int8_t* out) const {
    for_each_part<1>({in}, {ahead}, width, [&](const uint8_t* const(&row)[1], size_t x, size_t count) {
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
                         size_t mcu_row, size_t next_mcu_row, Strip* strip) {
  const Source source(image, kernels);
  const size_t width = geometry.width;
  const size_t stride = Strip::stride(geometry, 0);
  const size_t height = geometry.mcu_height();
  // Rows from one to the one that is fetched meanwhile: in this row of MCUs, or in the next.
  const size_t lines_ahead = divide_up(kFetchAhead, width);
  const auto row_ahead = [=](size_t line, size_t lines) {
    return line + lines < height ? mcu_row * height + line + lines : next_mcu_row * height + (line + lines) % height;
  };
  for (size_t line = 0; line < height; ++line) {
    int8_t* const luma = strip->samples[0].data() + line * stride;
    source.luma(mcu_row * height + line, row_ahead(line, lines_ahead), luma);
    replicate_edge(luma, width, stride);
  }
  if (geometry.components == 1) return;
  const size_t vertical = geometry.component[0].vertical;
  const size_t chroma_stride = Strip::stride(geometry, 1);
  for (size_t line = 0; line < 8; ++line) {
    const size_t y = mcu_row * height + line * vertical;
    const size_t next = row_ahead(line * vertical, 2 * lines_ahead);
    int8_t* const rows[2] = {strip->samples[1].data() + line * chroma_stride,
                             strip->samples[2].data() + line * chroma_stride};
    if (geometry.component[0].horizontal == 2) {
      source.chroma(y, next, vertical == 2, rows[0], rows[1]);
      for (int8_t* const row : rows) replicate_edge(row, width / 2, chroma_stride);
      continue;
    }
    source.chroma(y, next, false, strip->narrow[0].data(), strip->narrow[1].data());
    for (size_t c = 0; c < 2; ++c) {
      const int8_t* const narrow = strip->narrow[c].data();
      for (size_t x = 0; x < width / 2; ++x) rows[c][2 * x] = rows[c][2 * x + 1] = narrow[x];
      replicate_edge(rows[c], width, chroma_stride);
    }
  }
}

}  // namespace edgejpeg
