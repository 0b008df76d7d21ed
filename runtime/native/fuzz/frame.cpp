#include "frame.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

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
  constexpr int32_t kWrong[] = {-1, 1000, INT32_MAX, INT32_MIN};
  image->format = reader->once_in(32) ? kWrong[reader->choice(std::size(kWrong))]
                                      : static_cast<int32_t>(reader->choice(EDGEJPEG_LUMA + 1));
}

// A stride that no sample needs: anything.
ptrdiff_t idle_stride(Reader* reader) { return reader->any<int64_t>(); }

// Strides of packed, padded, mirrored, repeated and overlapping samples.
void read_strides(Reader* reader, ptrdiff_t channels, edgejpeg_image* image) {
  const ptrdiff_t pixel_strides[] = {channels, channels, channels + 1, -channels, -channels - 1, 0, 1, 2, 7};
  image->pixel_stride = pixel_strides[reader->choice(std::size(pixel_strides))];
  const ptrdiff_t row = std::max<ptrdiff_t>(std::abs(image->pixel_stride), 1) * image->width;
  const ptrdiff_t padding = reader->range(0, 70);
  const ptrdiff_t row_strides[] = {row, row, row + padding, -row, -row - padding, 0, 1, padding};
  image->row_stride = row_strides[reader->choice(std::size(row_strides))];
  if (image->width == 1 && reader->once_in(2)) image->pixel_stride = idle_stride(reader);
  if (image->height == 1 && reader->once_in(2)) image->row_stride = idle_stride(reader);
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

Frame read_frame(Reader* reader) {
  Frame frame;
  edgejpeg_image& image = frame.image;
  read_size(reader, &image);
  read_format(reader, &image);
  const ptrdiff_t channels = static_cast<ptrdiff_t>(frame.channels());
  frame.valid = image.width >= 1 && image.width <= EDGEJPEG_MAX_SIZE && image.height >= 1 &&
                image.height <= EDGEJPEG_MAX_SIZE && image.format >= EDGEJPEG_RGB && image.format <= EDGEJPEG_LUMA;
  if (!frame.valid) {
    frame.size = 1;
    frame.memory.reset(new uint8_t[frame.size]());
    image.pixels = frame.memory.get();
    image.pixel_stride = reader->any<ptrdiff_t>();
    image.row_stride = reader->any<ptrdiff_t>();
    return frame;
  }
  read_strides(reader, channels, &image);
  int64_t across = (image.width - 1) * (image.width > 1 ? image.pixel_stride : 0);
  int64_t down = (image.height - 1) * (image.height > 1 ? image.row_stride : 0);
  if (std::abs(across) + std::abs(down) > kMaxBytes) {
    image.pixel_stride = channels;
    image.row_stride = channels * image.width;
    across = (image.width - 1) * channels;
    down = (image.height - 1) * image.row_stride;
  }
  const int64_t first = std::min<int64_t>(across, 0) + std::min<int64_t>(down, 0);
  frame.size = static_cast<size_t>(std::abs(across) + std::abs(down) + channels);
  frame.memory.reset(new uint8_t[frame.size]());
  uint8_t* const origin = frame.memory.get() - first;
  image.pixels = origin;
  Content content(reader);
  for (int32_t y = 0; y < image.height; ++y) {
    uint8_t* const row = origin + (y > 0 ? y * image.row_stride : 0);
    for (int32_t x = 0; x < image.width; ++x) {
      uint8_t* const pixel = row + (x > 0 ? x * image.pixel_stride : 0);
      for (size_t c = 0; c < frame.channels(); ++c) {
        pixel[c] = content.sample(static_cast<size_t>(x), static_cast<size_t>(y), c);
      }
    }
  }
  return frame;
}

std::vector<uint8_t> packed_samples(const Frame& frame) {
  const edgejpeg_image& image = frame.image;
  const size_t channels = frame.channels();
  std::vector<uint8_t> samples;
  samples.reserve(static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * channels);
  for (int32_t y = 0; y < image.height; ++y) {
    const uint8_t* const row = image.pixels + (y > 0 ? y * image.row_stride : 0);
    for (int32_t x = 0; x < image.width; ++x) {
      const uint8_t* const pixel = row + (x > 0 ? x * image.pixel_stride : 0);
      for (size_t c = 0; c < channels; ++c) {
        samples.push_back(pixel[image.format == EDGEJPEG_BGR ? channels - 1 - c : c]);
      }
    }
  }
  return samples;
}

}  // namespace edgejpeg_fuzz
