#include "colour.h"

#include <algorithm>
#include <cstring>

namespace edgejpeg {
namespace {

constexpr size_t kPixelBytes = 3;
constexpr size_t kGroupBytes = kPixelBytes * kPixelGroup;

// Pixels are fetched this many bytes before they are needed, at least: a processor that finds out by itself, row after
// row, waits for them a third of the time. In chunks, since many at once would stand in the way of the conversion.
constexpr size_t kFetchAhead = 3072;
constexpr size_t kChunk = 4 * kPixelGroup;
constexpr size_t kCacheLine = 64;

// Row `y` of the frame, or the last one below it.
const uint8_t* row_of(const edgejpeg_image& image, size_t y) {
  const size_t row = std::min(y, static_cast<size_t>(image.height) - 1);
  return image.pixels + static_cast<ptrdiff_t>(row) * image.row_stride;
}

// A row as packed pixels: where it lies, or copied.
const uint8_t* packed_row(const edgejpeg_image& image, size_t y, Buffer<uint8_t>* copy) {
  const uint8_t* in = row_of(image, y);
  if (image.pixel_stride == static_cast<ptrdiff_t>(kPixelBytes)) return in;
  uint8_t* out = copy->data();
  for (ptrdiff_t x = 0; x < image.width; ++x, out += kPixelBytes) {
    // No step behind the last pixel: with a stride that no pixel needs the pointer would wrap around.
    std::memcpy(out, in + x * image.pixel_stride, kPixelBytes);
  }
  return copy->data();
}

// The group of pixels that starts at `x`, where the row ends within it: the last pixel is replicated.
void extend_group(const uint8_t* row, size_t width, size_t x, uint8_t* group) {
  for (size_t i = 0; i < kPixelGroup; ++i) {
    std::memcpy(group + kPixelBytes * i, row + kPixelBytes * std::min(x + i, width - 1), kPixelBytes);
  }
}

void convert_gray_row(const edgejpeg_image& image, size_t y, size_t padded, int8_t* out) {
  const size_t width = static_cast<size_t>(image.width);
  const uint8_t* in = row_of(image, y);
  if (image.pixel_stride == 1) {
    for (size_t x = 0; x < width; ++x) out[x] = static_cast<int8_t>(in[x] - 128);
  } else {
    for (size_t x = 0; x < width; ++x) {
      out[x] = static_cast<int8_t>(in[static_cast<ptrdiff_t>(x) * image.pixel_stride] - 128);
    }
  }
  std::fill(out + width, out + padded, out[width - 1]);
}

// Calls convert(pixels of each row, x, count) for the part of the rows that is there as whole groups, and then for each
// of the groups up to `padded` that must be extended. Meanwhile the rows of `ahead`, where they are not nullptr, are
// fetched.
template <size_t rows, typename Convert>
void for_each_part(const uint8_t* const (&row)[rows], const uint8_t* const (&ahead)[rows], size_t width, size_t padded,
                   Convert convert) {
  const size_t whole = width / kPixelGroup * kPixelGroup;
  for (size_t x = 0; x < whole; x += kChunk) {
    const size_t count = std::min(kChunk, whole - x);
    const uint8_t* chunk[rows];
    for (size_t i = 0; i < rows; ++i) {
      chunk[i] = row[i] + kPixelBytes * x;
      if (ahead[i] == nullptr) continue;
      for (size_t at = 0; at < kPixelBytes * count; at += kCacheLine) {
        __builtin_prefetch(ahead[i] + kPixelBytes * x + at);
      }
    }
    convert(chunk, x, count);
  }
  for (size_t x = whole; x < padded; x += kPixelGroup) {
    uint8_t groups[rows][kGroupBytes];
    const uint8_t* extended[rows];
    for (size_t i = 0; i < rows; ++i) {
      extend_group(row[i], width, x, groups[i]);
      extended[i] = groups[i];
    }
    convert(extended, x, kPixelGroup);
  }
}

}  // namespace

bool Strip::reserve(const Geometry& geometry) {
  for (Buffer<uint8_t>& row : packed) {
    if (!row.reserve(kPixelBytes * geometry.width)) return false;
  }
  if (!samples[0].reserve(geometry.mcu_height() * stride(geometry, 0))) return false;
  for (size_t c = 1; c < geometry.components; ++c) {
    if (!samples[c].reserve(8 * stride(geometry, c))) return false;
  }
  return true;
}

void convert_mcu_row(const edgejpeg_image& image, const Geometry& geometry, const Backend& backend, size_t mcu_row,
                     size_t next_mcu_row, Strip* strip) {
  const size_t width = geometry.width;
  const size_t stride = Strip::stride(geometry, 0);
  const size_t vertical = geometry.component[0].vertical;
  const bool bgr = image.format == EDGEJPEG_BGR;
  const bool is_packed = image.pixel_stride == static_cast<ptrdiff_t>(kPixelBytes);
  const size_t lines_ahead = std::min(divide_up(kFetchAhead, kPixelBytes * width * vertical), size_t{8});
  for (size_t line = 0; line < 8; ++line) {
    const size_t y = mcu_row * geometry.mcu_height() + line * vertical;
    int8_t* const luma = strip->samples[0].data() + line * vertical * stride;
    const size_t place = line + lines_ahead;
    const size_t y_ahead = (place < 8 ? mcu_row : next_mcu_row) * geometry.mcu_height() + place % 8 * vertical;
    const uint8_t* const ahead[2] = {is_packed ? row_of(image, y_ahead) : nullptr,
                                     is_packed ? row_of(image, y_ahead + 1) : nullptr};
    const uint8_t* const first_ahead[1] = {ahead[0]};
    if (image.format == EDGEJPEG_LUMA) {
      convert_gray_row(image, y, stride, luma);
      continue;
    }
    const uint8_t* const first[1] = {packed_row(image, y, &strip->packed[0])};
    if (geometry.components == 1) {
      for_each_part(first, first_ahead, width, stride, [&](const uint8_t* const(&row)[1], size_t x, size_t count) {
        backend.luma(row[0], bgr, count, luma + x);
      });
      continue;
    }
    const size_t chroma_stride = Strip::stride(geometry, 1);
    int8_t* const cb = strip->samples[1].data() + line * chroma_stride;
    int8_t* const cr = strip->samples[2].data() + line * chroma_stride;
    if (vertical == 2) {
      const uint8_t* const both[2] = {first[0], packed_row(image, y + 1, &strip->packed[1])};
      for_each_part(both, ahead, width, stride, [&](const uint8_t* const(&rows)[2], size_t x, size_t count) {
        int8_t* const lumas[2] = {luma + x, luma + stride + x};
        backend.convert_420(rows, bgr, count, lumas, cb + x / 2, cr + x / 2);
      });
      continue;
    }
    const bool halved = geometry.component[0].horizontal == 2;
    const ChromaKernel convert = halved ? backend.convert_422 : backend.convert_444;
    for_each_part(first, first_ahead, width, stride, [&](const uint8_t* const(&row)[1], size_t x, size_t count) {
      const size_t cell = halved ? x / 2 : x;
      convert(row[0], bgr, count, luma + x, cb + cell, cr + cell);
    });
  }
}

}  // namespace edgejpeg
