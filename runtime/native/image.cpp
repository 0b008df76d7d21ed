#include "image.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "error.h"

namespace edgejpeg {
namespace {

// One array of samples: `bytes` adjacent ones for each of its pixels.
struct Plane {
  const char* name;
  const char* stride_name;
  const uint8_t* first;
  ptrdiff_t width;
  ptrdiff_t height;
  ptrdiff_t pixel_stride;
  ptrdiff_t row_stride;
  ptrdiff_t bytes;
};

// The first byte and the end of a plane, from its first sample.
struct Extent {
  ptrdiff_t low;
  ptrdiff_t high;
};

const char* format_name(int32_t format) {
  constexpr const char* kNames[] = {"RGB", "BGR", "LUMA", "NV12", "NV21", "I420", "YUYV"};
  return kNames[format];
}

size_t planes_of(const edgejpeg_image& image, Plane (&planes)[3]) {
  const ptrdiff_t bytes = image.format == EDGEJPEG_RGB || image.format == EDGEJPEG_BGR ? 3
                          : image.format == EDGEJPEG_YUYV                              ? 2
                                                                                       : 1;
  planes[0] = {"pixels",     "row_stride",       image.pixels,     image.width,
               image.height, image.pixel_stride, image.row_stride, bytes};
  const bool interleaved = image.format == EDGEJPEG_NV12 || image.format == EDGEJPEG_NV21;
  if (!interleaved && image.format != EDGEJPEG_I420) return 1;
  const ptrdiff_t samples = interleaved ? 2 : 1;
  planes[1] = {"chroma[0]", "chroma_stride[0]",     image.chroma[0], image.width / 2, image.height / 2,
               samples,     image.chroma_stride[0], samples};
  if (interleaved) return 2;
  planes[2] = {"chroma[1]", "chroma_stride[1]",     image.chroma[1], image.width / 2, image.height / 2,
               samples,     image.chroma_stride[1], samples};
  return 3;
}

// steps * stride, or false where that is no distance in memory.
bool reach(ptrdiff_t steps, ptrdiff_t stride, ptrdiff_t* distance) {
  *distance = 0;
  return steps == 0 || (!__builtin_mul_overflow(steps, stride, distance) && *distance != PTRDIFF_MIN);
}

// False where the plane does not fit the address space.
bool find_extent(const Plane& plane, Extent* extent) {
  ptrdiff_t across;
  ptrdiff_t down;
  if (!reach(plane.width - 1, plane.pixel_stride, &across) || !reach(plane.height - 1, plane.row_stride, &down)) {
    return false;
  }
  const ptrdiff_t zero = 0;
  if (__builtin_add_overflow(std::min(across, zero), std::min(down, zero), &extent->low) ||
      __builtin_add_overflow(std::max(across, zero), std::max(down, zero), &extent->high) ||
      __builtin_add_overflow(extent->high, plane.bytes, &extent->high)) {
    return false;
  }
  const auto first = reinterpret_cast<uintptr_t>(plane.first);
  return first >= uintptr_t{0} - static_cast<uintptr_t>(extent->low) &&
         static_cast<uintptr_t>(extent->high) <= UINTPTR_MAX - first;
}

// Row after row, or column after column, each behind the one before or each before it. Strides that nothing is reached
// with do not matter. The extent is known to fit, so that nothing overflows here.
bool is_disjoint(const Plane& plane) {
  if (plane.width > 1 && std::abs(plane.pixel_stride) < plane.bytes) return false;
  if (plane.height > 1 && std::abs(plane.row_stride) < plane.bytes) return false;
  if (plane.width == 1 || plane.height == 1) return true;
  const ptrdiff_t row = (plane.width - 1) * std::abs(plane.pixel_stride);
  const ptrdiff_t column = (plane.height - 1) * std::abs(plane.row_stride);
  return std::abs(plane.row_stride) - plane.bytes >= row || std::abs(plane.pixel_stride) - plane.bytes >= column;
}

edgejpeg_status check_plane(const Plane& plane) {
  Extent extent;
  if (!find_extent(plane, &extent)) {
    return fail(EDGEJPEG_INVALID_ARGUMENT,
                "image %s is %td, pixels are %td bytes apart: %td x %td of them are outside of the address space",
                plane.stride_name, plane.row_stride, plane.pixel_stride, plane.width, plane.height);
  }
  if (is_disjoint(plane)) return EDGEJPEG_OK;
  const ptrdiff_t step = std::max(std::abs(plane.pixel_stride), plane.bytes);
  return fail(EDGEJPEG_INVALID_ARGUMENT,
              "image %s is %td, pixels are %td bytes apart; samples must not overlap: rows of %td pixels of %td bytes "
              "are at least %td bytes apart, or minus as many",
              plane.stride_name, plane.row_stride, plane.pixel_stride, plane.width, plane.bytes,
              (plane.width - 1) * step + plane.bytes);
}

edgejpeg_status check_yuv(const edgejpeg_image& image) {
  const char* const name = format_name(image.format);
  if (image.width % 2 != 0) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "image width is %d; that of %s is even", static_cast<int>(image.width),
                name);
  }
  if (image.height % 2 != 0 && image.format != EDGEJPEG_YUYV) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "image height is %d; that of %s is even", static_cast<int>(image.height),
                name);
  }
  const ptrdiff_t pixel_stride = image.format == EDGEJPEG_YUYV ? 2 : 1;
  if (image.pixel_stride != pixel_stride) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "image pixel_stride is %td; that of %s is %td", image.pixel_stride, name,
                pixel_stride);
  }
  return check_range("image range", image.range, EDGEJPEG_LIMITED_RANGE, EDGEJPEG_FULL_RANGE);
}

}  // namespace

edgejpeg_status check_image(const char* function, const edgejpeg_image& image) {
  if (image.pixels == nullptr) return fail_null(function, "image->pixels");
  if (const auto status = check_range("image width", image.width, 1, EDGEJPEG_MAX_SIZE)) return status;
  if (const auto status = check_range("image height", image.height, 1, EDGEJPEG_MAX_SIZE)) return status;
  if (const auto status = check_range("image format", image.format, EDGEJPEG_RGB, EDGEJPEG_YUYV)) return status;
  if (image.format > EDGEJPEG_LUMA) {
    if (const auto status = check_yuv(image)) return status;
  }
  Plane planes[3];
  const size_t count = planes_of(image, planes);
  for (size_t i = 0; i < count; ++i) {
    if (planes[i].first == nullptr) {
      return fail(EDGEJPEG_INVALID_ARGUMENT, "%s: image->%s is NULL; %s has %zu planes", function, planes[i].name,
                  format_name(image.format), count);
    }
    if (const auto status = check_plane(planes[i])) return status;
  }
  return EDGEJPEG_OK;
}

bool overlaps(const edgejpeg_image& image, const void* memory, size_t size) {
  Plane planes[3];
  const size_t count = planes_of(image, planes);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  return size > 0 && std::any_of(planes, planes + count, [=](const Plane& plane) {
           Extent extent;
           if (!find_extent(plane, &extent)) return true;
           const auto first = reinterpret_cast<uintptr_t>(plane.first);
           const uintptr_t low = first + static_cast<uintptr_t>(extent.low);
           const uintptr_t end = first + static_cast<uintptr_t>(extent.high);
           return begin < end && (begin >= low || low - begin < size);
         });
}

}  // namespace edgejpeg
