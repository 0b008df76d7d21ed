// The arithmetic of colour, once per instruction set, behind one table of functions; see backend.h.
#ifndef EDGEJPEG_COLOUR_KERNELS_H_
#define EDGEJPEG_COLOUR_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace edgejpeg {

// Kernels of whole pixels take this many at a time.
constexpr size_t kPixelGroup = 32;
// Kernels of planes and of interleaved chroma take this many samples of an output at a time.
constexpr size_t kSampleGroup = 16;

// Rows of interleaved pixels of one layout; `count` is a multiple of kPixelGroup. Samples are level-shifted. What lies
// `ahead` bytes from a group, forwards or, as a huge number, backwards, is fetched: it need not be memory of anyone's.
using LumaKernel = void (*)(const uint8_t* pixels, uintptr_t ahead, size_t count, int8_t* y);
using ChromaKernel = void (*)(const uint8_t* pixels, uintptr_t ahead, size_t count, int8_t* y, int8_t* cb, int8_t* cr);
// Two rows: `pixels[i]` gives `y[i]`.
using ChromaKernel420 = void (*)(const uint8_t* const pixels[2], uintptr_t ahead, size_t count, int8_t* const y[2],
                                 int8_t* cb, int8_t* cr);

namespace {

// For the back ends: the cache lines in which a group of 32 pixels begins and goes on.
[[gnu::always_inline]] inline void fetch_group(const uint8_t* pixels, uintptr_t ahead) {
  const uintptr_t place = reinterpret_cast<uintptr_t>(pixels) + ahead;
  __builtin_prefetch(reinterpret_cast<const void*>(place));
  __builtin_prefetch(reinterpret_cast<const void*>(place + 64));
}

}  // namespace

struct PixelKernels {
  LumaKernel luma;
  ChromaKernel convert_444;
  ChromaKernel convert_422;
  ChromaKernel420 convert_420;
};

// What becomes of a sample that is Y, Cb or Cr already. For the sum of two samples (or twice one, `zero` being
// subtracted twice): level = (sum * weight + 16384 >> 15) - shift, clamped to -128..127. This is x = (s - zero) * gain,
// rounded to the nearest integer, halves up, for every s, as the tests show.
struct SampleRange {
  int16_t zero;
  int16_t weight;  // 16384 * gain
  int16_t shift;
};

constexpr SampleRange kFullLuma = {0, 16384, 128};
constexpr SampleRange kFullChroma = {128, 16384, 0};
constexpr SampleRange kLimitedLuma = {16, 19077, 128};   // gain 255 / 219
constexpr SampleRange kLimitedChroma = {128, 18651, 0};  // gain 255 / 224

struct ColourKernels {
  PixelKernels pixels[2][2];  // [bytes of a pixel: 3 or 4][blue first]; the fourth byte does not matter

  // Counts are of samples of an output, and multiples of kSampleGroup.
  void (*plane)(const uint8_t* in, size_t count, const SampleRange& range, int8_t* out);
  // Two components, their samples in turn.
  void (*pairs)(const uint8_t* in, size_t count, const SampleRange& range, int8_t* first, int8_t* second);
  // The Y of Y Cb Y Cr.
  void (*yuyv_luma)(const uint8_t* in, size_t count, const SampleRange& range, int8_t* y);
  // The means of the Cb and Cr of two rows (the same twice, for those of one) of Y Cb Y Cr.
  void (*yuyv_chroma)(const uint8_t* const in[2], size_t count, const SampleRange& range, int8_t* cb, int8_t* cr);
};

extern const ColourKernels kScalarColour;
#if defined(__x86_64__)
extern const ColourKernels kAvx2Colour;
#endif
#if defined(__aarch64__)
extern const ColourKernels kNeonColour;
#endif

}  // namespace edgejpeg

#endif  // EDGEJPEG_COLOUR_KERNELS_H_
