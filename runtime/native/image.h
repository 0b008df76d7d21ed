// What a caller's image must be, and the memory that it takes.
#ifndef EDGEJPEG_IMAGE_H_
#define EDGEJPEG_IMAGE_H_

#include <cstddef>

#include "edgejpeg.h"

namespace edgejpeg {

// Whether every sample of the image can be read; else a status with a message.
edgejpeg_status check_image(const char* function, const edgejpeg_image& image);

// Whether memory lies between the first and the last byte of a plane of a checked image.
bool overlaps(const edgejpeg_image& image, const void* memory, size_t size);

}  // namespace edgejpeg

#endif  // EDGEJPEG_IMAGE_H_
