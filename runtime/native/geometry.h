// How a frame divides into components, blocks and MCUs [ITU-T T.81, A.1, A.2].
#ifndef EDGEJPEG_GEOMETRY_H_
#define EDGEJPEG_GEOMETRY_H_

#include <cstddef>

namespace edgejpeg {

constexpr size_t kBlockSize = 64;

struct Component {
  size_t horizontal;  // sampling factors = blocks per MCU
  size_t vertical;
  size_t columns;  // real blocks; the others of an MCU at the right and lower edge are dummies
  size_t rows;
  size_t table;  // quantization and Huffman table: 0 luma, 1 chroma

  size_t blocks() const { return columns * rows; }
};

struct Geometry {
  size_t width;
  size_t height;
  size_t components;  // 1 or 3
  size_t mcu_columns;
  size_t mcu_rows;
  Component component[3];

  size_t mcu_width() const { return 8 * component[0].horizontal; }
  size_t mcu_height() const { return 8 * component[0].vertical; }
  size_t padded_width() const { return mcu_columns * mcu_width(); }
  size_t blocks_per_mcu() const {
    return component[0].horizontal * component[0].vertical + (components == 3 ? size_t{2} : size_t{0});
  }
};

inline size_t divide_up(size_t value, size_t divisor) { return (value + divisor - 1) / divisor; }

// One component when `horizontal` and `vertical`, the luma sampling factors, are 0.
inline Geometry make_geometry(size_t width, size_t height, size_t horizontal, size_t vertical) {
  const bool gray = horizontal == 0;
  if (gray) horizontal = vertical = 1;
  Geometry geometry{width, height, gray ? size_t{1} : size_t{3}, 0, 0, {}};
  geometry.mcu_columns = divide_up(width, 8 * horizontal);
  geometry.mcu_rows = divide_up(height, 8 * vertical);
  geometry.component[0] = {horizontal, vertical, divide_up(width, 8), divide_up(height, 8), 0};
  for (size_t c = 1; c < geometry.components; ++c) {
    geometry.component[c] = {1, 1, geometry.mcu_columns, geometry.mcu_rows, 1};
  }
  return geometry;
}

}  // namespace edgejpeg

#endif  // EDGEJPEG_GEOMETRY_H_
