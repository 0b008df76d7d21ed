#include "frame.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iterator>

namespace edgejpeg_fuzz {
namespace {

constexpr int32_t kMaxPixels =
    1 << 14;  // of a frame that is not as long as a JPEG can be, so that inputs take milliseconds
constexpr int64_t kMaxBytes = 1 << 20;

int32_t wrong_side(Reader* reader) {
  constexpr int32_t kWrong[] = {0, -1, EDGEJPEG_MAX_SIZE + 1, INT32_MAX, INT32_MIN};
  return kWrong[reader->choice(std::size(kWrong))];
}

void read_size(Reader* reader, edgejpeg_image* image) {
  const size_t kind = reader->choice(64);
  if (kind < 32) {
    image->width = reader->range(1, 40);
    image->height = reader->range(1, 40);
  } else if (kind < 48) {  // at and beside the borders of blocks and MCUs
    image->width = std::max(1, 8 * reader->range(0, 16) + reader->range(-1, 1));
    image->height = std::max(1, 8 * reader->range(0, 16) + reader->range(-1, 1));
  } else if (kind < 56) {
    image->width = reader->range(1, 1024);
    image->height = std::min(reader->range(1, 1024), std::max(1, kMaxPixels / image->width));
  } else if (kind < 62) {
    image->width = reader->once_in(2) ? wrong_side(reader) : reader->range(1, 64);
    image->height = image->width > 0 && image->width <= 64 ? wrong_side(reader) : reader->range(1, 64);
  } else {  // as long as a JPEG can be
    image->width = EDGEJPEG_MAX_SIZE - reader->range(0, 20);
    image->height = 1;
    if (kind == 63) std::swap(image->width, image->height);
  }
}

void read_format(Reader* reader, edgejpeg_image* image) {
  constexpr int32_t kWrong[] = {-1, EDGEJPEG_YUYV + 1, INT32_MAX, INT32_MIN};
  image->format = reader->once_in(32) ? kWrong[reader->choice(std::size(kWrong))]
                                      : static_cast<int32_t>(reader->choice(EDGEJPEG_YUYV + 1));
  image->range = reader->once_in(32) ? reader->any<int32_t>() : static_cast<int32_t>(reader->choice(2));
  if (image->format < EDGEJPEG_NV12 || reader->once_in(16)) return;
  for (int32_t* side : {&image->width, &image->height}) {
    if (*side >= 1 && *side <= EDGEJPEG_MAX_SIZE) *side += *side == EDGEJPEG_MAX_SIZE ? -1 : *side % 2;
  }
}

bool has_planes(int32_t format) { return format >= EDGEJPEG_NV12 && format <= EDGEJPEG_I420; }

// What the header allows, but for the strides.
bool is_allowed(const edgejpeg_image& image) {
  const auto is_side = [](int32_t side) { return side >= 1 && side <= EDGEJPEG_MAX_SIZE; };
  if (!is_side(image.width) || !is_side(image.height)) return false;
  if (image.format < EDGEJPEG_RGB || image.format > EDGEJPEG_YUYV) return false;
  if (image.format < EDGEJPEG_NV12) return true;
  const bool even = image.width % 2 == 0 && (image.height % 2 == 0 || image.format == EDGEJPEG_YUYV);
  return even && image.range >= 0 && image.range <= 1;
}

// One array of samples, with pixels of `channels` adjacent ones.
struct Plane {
  int64_t width;
  int64_t height;
  ptrdiff_t channels;
  ptrdiff_t* pixel_stride;
  ptrdiff_t* row_stride;
  const uint8_t** first;
};

std::vector<Plane> planes_of(edgejpeg_image* image, ptrdiff_t* chroma_pixel_stride) {
  const ptrdiff_t channels = image->format <= EDGEJPEG_BGR ? 3 : image->format == EDGEJPEG_YUYV ? 2 : 1;
  std::vector<Plane> planes = {
      {image->width, image->height, channels, &image->pixel_stride, &image->row_stride, &image->pixels}};
  *chroma_pixel_stride = image->format == EDGEJPEG_I420 ? 1 : 2;
  for (size_t i = 0; has_planes(image->format) && i < (image->format == EDGEJPEG_I420 ? 2 : 1); ++i) {
    planes.push_back({image->width / 2, image->height / 2, *chroma_pixel_stride, chroma_pixel_stride,
                      &image->chroma_stride[i], &image->chroma[i]});
  }
  return planes;
}

// Strides of packed, padded, mirrored, turned, repeated, overlapping and unreachable samples; where there is nothing to
// step over, anything. Returns whether they are allowed.
bool read_strides(Reader* reader, bool packed, const Plane& plane) {
  const ptrdiff_t n = plane.channels;
  const ptrdiff_t pixel_strides[] = {n, n, n + 1, 4, -n, -4, -n - 1, 0, 1, 2, 7};
  *plane.pixel_stride = packed ? n : pixel_strides[reader->choice(std::size(pixel_strides))];
  const ptrdiff_t row = std::max(std::abs(*plane.pixel_stride), n) * (plane.width - 1) + n;
  const ptrdiff_t padding = reader->range(0, 70);
  const ptrdiff_t row_strides[] = {row,     row,     row, row + padding, -row,        -row - padding,
                                   row - 1, 1 - row, 0,   padding % 10,  PTRDIFF_MAX, PTRDIFF_MIN};
  *plane.row_stride = row_strides[reader->choice(std::size(row_strides))];
  if (!packed && reader->once_in(16)) {  // columns for rows
    *plane.row_stride = n;
    *plane.pixel_stride = n * plane.height + padding;
  }
  if (!packed && plane.width == 1 && reader->once_in(2)) *plane.pixel_stride = reader->any<int64_t>();
  if (plane.height == 1 && reader->once_in(2)) *plane.row_stride = reader->any<int64_t>();
  constexpr ptrdiff_t kFar = PTRDIFF_MAX / 4;
  if (plane.height > 1 && (*plane.row_stride > kFar || *plane.row_stride < -kFar)) return false;
  const int64_t across = plane.width > 1 ? std::abs(*plane.pixel_stride) : 0;
  const int64_t down = plane.height > 1 ? std::abs(*plane.row_stride) : 0;
  if ((plane.width > 1 && across < n) || (plane.height > 1 && down < n)) return false;
  if (plane.width == 1 || plane.height == 1) return true;
  return down >= across * (plane.width - 1) + n || across >= down * (plane.height - 1) + n;
}

int64_t reach(int64_t count, ptrdiff_t stride) { return count > 1 ? (count - 1) * stride : 0; }

// Memory for a plane, just as large as needed; returns its first sample.
uint8_t* place(const Plane& plane, Memory* memory) {
  int64_t across = reach(plane.width, *plane.pixel_stride);
  int64_t down = reach(plane.height, *plane.row_stride);
  if (std::abs(across) + std::abs(down) > kMaxBytes) {
    *plane.pixel_stride = plane.channels;
    *plane.row_stride = plane.channels * plane.width;
    across = reach(plane.width, *plane.pixel_stride);
    down = reach(plane.height, *plane.row_stride);
  }
  memory->size = static_cast<size_t>(std::abs(across) + std::abs(down) + plane.channels);
  memory->bytes.reset(new uint8_t[memory->size]());
  return memory->bytes.get() - std::min<int64_t>(across, 0) - std::min<int64_t>(down, 0);
}

// Of channel 0 of pixel (x, y).
const uint8_t* sample_at(const Plane& plane, int64_t x, int64_t y) {
  return *plane.first + (y > 0 ? y * *plane.row_stride : 0) + (x > 0 ? x * *plane.pixel_stride : 0);
}

// What a frame shows. The higher kinds are the hard ones: all frequencies at full swing.
class Content {
 public:
  explicit Content(Reader* reader)
      : kind_(reader->choice(10)), seed_(reader->any<uint32_t>()), period_(1 + (seed_ & 15)), noise_(seed_) {
    for (uint8_t& byte : pattern_) byte = kind_ == 9 ? reader->any<uint8_t>() : 0;
  }

  uint8_t sample(size_t x, size_t y, size_t channel) {
    switch (kind_) {
      case 0:  // one colour
        return static_cast<uint8_t>(seed_ >> (8 * channel));
      case 1:  // a gradient
        return static_cast<uint8_t>((x + 2 * y) * (channel + 1) / period_);
      case 2: {  // a scene: waves with some noise
        const double wave = std::sin(static_cast<double>(x) / static_cast<double>(period_)) +
                            std::cos(static_cast<double>(y) / static_cast<double>(period_ + channel));
        return static_cast<uint8_t>(128 + 50 * wave + noise_.next() % 16);
      }
      case 3:  // nearly flat
        return static_cast<uint8_t>(126 + noise_.next() % 5);
      case 4:  // sparse points
        return noise_.next() % 64 == 0 ? 255 : 0;
      case 5:  // noise
        return static_cast<uint8_t>(noise_.next());
      case 6:  // noise of black and white
        return (noise_.next() & 256) != 0 ? 255 : 0;
      case 7:  // a checkerboard, each channel of its own
        return ((x / period_ + y / period_) >> channel & 1) != 0 ? 255 : 0;
      case 8:  // stripes along and across
        return ((channel == 0 ? x : y) / period_ & 1) != 0 ? 255 : 0;
      default:  // a block of the input, repeated, that changes slowly
        return static_cast<uint8_t>(pattern_[(y % 8) * 8 + x % 8] + (x / 8 + y / 8) * channel);
    }
  }

 private:
  size_t kind_;
  uint32_t seed_;
  size_t period_;
  Noise noise_;
  uint8_t pattern_[64];
};

}  // namespace

bool Memory::operator==(const std::vector<uint8_t>& other) const { return copy() == other; }

Frame read_frame(Reader* reader) {
  Frame frame;
  edgejpeg_image& image = frame.image;
  read_size(reader, &image);
  read_format(reader, &image);
  ptrdiff_t chroma_pixel_stride;
  const std::vector<Plane> planes = planes_of(&image, &chroma_pixel_stride);
  frame.valid = is_allowed(image);
  for (size_t i = 0; i < planes.size() && frame.valid; ++i) {
    frame.valid = read_strides(reader, image.format >= EDGEJPEG_NV12, planes[i]);
  }
  if (frame.valid && image.format >= EDGEJPEG_NV12 && reader->once_in(32)) {
    ++image.pixel_stride;
    frame.valid = false;
  }
  Content content(reader);
  size_t channel = 0;
  for (size_t i = 0; i < planes.size(); ++i) {
    const Plane& plane = planes[i];
    if (!frame.valid) {
      frame.planes[i].size = 1;
      frame.planes[i].bytes.reset(new uint8_t[1]());
      *plane.first = reader->once_in(8) ? nullptr : frame.planes[i].bytes.get();
      continue;
    }
    uint8_t* const origin = place(plane, &frame.planes[i]);
    *plane.first = origin;
    for (int64_t y = 0; y < plane.height; ++y) {
      for (int64_t x = 0; x < plane.width; ++x) {
        uint8_t* const pixel = origin + (sample_at(plane, x, y) - *plane.first);
        for (ptrdiff_t c = 0; c < plane.channels; ++c) {
          pixel[c] = content.sample(static_cast<size_t>(x), static_cast<size_t>(y), channel + static_cast<size_t>(c));
        }
      }
    }
    channel += static_cast<size_t>(plane.channels);
  }
  return frame;
}

void rearrange(const Frame& frame, OtherFrame* other) {
  edgejpeg_image from = frame.image;
  ptrdiff_t chroma_pixel_stride;
  std::vector<uint8_t> channels[3];  // RGB, BGR: as they come; planes: Y, Cb, Cr
  size_t channel = 0;
  const std::vector<Plane> planes = planes_of(&from, &chroma_pixel_stride);
  for (const Plane& plane : planes) {
    for (ptrdiff_t c = 0; c < plane.channels; ++c, ++channel) {
      for (int64_t y = 0; y < plane.height; ++y) {
        for (int64_t x = 0; x < plane.width; ++x) channels[channel].push_back(sample_at(plane, x, y)[c]);
      }
    }
  }
  const auto interleave = [](const std::vector<const std::vector<uint8_t>*>& parts) {
    std::vector<uint8_t> samples;
    for (size_t i = 0; i < parts[0]->size(); ++i) {
      for (const std::vector<uint8_t>* part : parts) samples.push_back((*part)[i]);
    }
    return samples;
  };
  edgejpeg_image& image = other->image;
  image = frame.image;
  image.pixel_stride = planes[0].channels;
  other->planes[0] = channels[0];
  if (image.format <= EDGEJPEG_BGR) {  // the channels the other way round
    image.format = image.format == EDGEJPEG_RGB ? EDGEJPEG_BGR : EDGEJPEG_RGB;
    other->planes[0] = interleave({&channels[2], &channels[1], &channels[0]});
  } else if (image.format == EDGEJPEG_YUYV) {
    other->planes[0] = interleave({&channels[0], &channels[1]});
  } else if (image.format == EDGEJPEG_I420) {
    image.format = EDGEJPEG_NV21;
    other->planes[1] = interleave({&channels[2], &channels[1]});
  } else if (has_planes(image.format)) {
    const bool cb_first = image.format == EDGEJPEG_NV12;
    image.format = EDGEJPEG_I420;
    other->planes[1] = channels[cb_first ? 1 : 2];
    other->planes[2] = channels[cb_first ? 2 : 1];
  }
  image.row_stride = image.pixel_stride * image.width;
  image.pixels = other->planes[0].data();
  for (size_t i = 0; i < 2; ++i) {
    image.chroma[i] = other->planes[i + 1].data();
    image.chroma_stride[i] = image.format == EDGEJPEG_I420 ? image.width / 2 : image.width;
  }
}

}  // namespace edgejpeg_fuzz
