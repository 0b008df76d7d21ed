// Reads a baseline JPEG to its last bit, by ITU-T T.81 alone, and checks that it says what it should. Of a progressive
// file, the segments.
#ifndef EDGEJPEG_FUZZ_FILE_CHECK_H
#define EDGEJPEG_FUZZ_FILE_CHECK_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgejpeg_fuzz {

struct Expected {
  size_t width;
  size_t height;
  size_t components;            // 1 or 3
  size_t horizontal, vertical;  // sampling factors of luma
  const uint8_t* tables[2];     // row-major; the second only with three components
  const std::vector<uint8_t>* comment;
  bool lean;
  bool progressive;
  uint8_t orientation;  // 0: no EXIF
  size_t restart_rows;  // 0: no restart markers
};

void check_file(const uint8_t* data, size_t size, const Expected& expected);

}  // namespace edgejpeg_fuzz

#endif  // EDGEJPEG_FUZZ_FILE_CHECK_H
