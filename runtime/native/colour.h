// Colour conversion, chroma subsampling and edge replication, one MCU row at a time.
#ifndef EDGEJPEG_COLOUR_H_
#define EDGEJPEG_COLOUR_H_

#include <cstddef>
#include <cstdint>

#include "buffer.h"
#include "edgejpeg.h"
#include "geometry.h"

namespace edgejpeg {

// The level-shifted samples (-128..127) of one MCU row, padded to whole MCUs, and the memory to make them.
struct Strip {
  Buffer<uint8_t> pixels;  // red, green and blue of the rows of one chroma cell, planar
  Buffer<int8_t> samples[3];

  [[nodiscard]] bool reserve(const Geometry& geometry);
  // Samples per row of a component.
  static size_t stride(const Geometry& geometry, size_t component) {
    return component == 0 ? geometry.padded_width() : 8 * geometry.mcu_columns;
  }
};

void convert_mcu_row(const edgejpeg_image& image, const Geometry& geometry, size_t mcu_row, Strip* strip);

}  // namespace edgejpeg

#endif  // EDGEJPEG_COLOUR_H_
