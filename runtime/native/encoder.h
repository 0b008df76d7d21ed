// The pipeline: colour, DCT, statistics, design, quantization, entropy coding.
#ifndef EDGEJPEG_ENCODER_H_
#define EDGEJPEG_ENCODER_H_

#include <cstddef>
#include <cstdint>

#include "buffer.h"
#include "colour.h"
#include "design.h"
#include "edgejpeg.h"
#include "geometry.h"
#include "huffman.h"
#include "stream.h"
#include "threads.h"

namespace edgejpeg {

// All arguments are checked before they come here. Memory is kept from frame to frame.
class Encoder {
 public:
  enum class Mode { kNone, kFixed, kDesigned };

  Encoder() = default;
  ~Encoder();
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  // False when memory or threads are short, as in all that follows.
  [[nodiscard]] bool start(const edgejpeg_options& options);
  [[nodiscard]] bool set_comment(const char* text, size_t size);
  void set_tables(const uint8_t* luma, const uint8_t* chroma);
  void set_design(const Design& design);
  [[nodiscard]] bool encode(const edgejpeg_image& image);

  bool is_gray(const edgejpeg_image& image) const {
    return subsampling_ == EDGEJPEG_GRAY || image.format == EDGEJPEG_LUMA;
  }
  Mode mode() const { return mode_; }
  bool has_chroma_table() const { return has_chroma_table_; }
  // What the last frame gave. The tables and the statistics hold for `components()` components; 0: no frame yet.
  size_t components() const { return geometry_.components; }
  bool has_statistics() const { return statistics_.components > 0; }
  const edgejpeg_statistics& statistics() const { return statistics_; }
  const uint8_t* table(size_t slot) const { return used_[slot]; }
  const ByteStream& file() const { return file_; }

 private:
  [[nodiscard]] bool reserve();
  void transform(const edgejpeg_image& image);
  void transform_mcu_row(const edgejpeg_image& image, size_t mcu_row, Strip* strip);
  void measure();
  void design_tables();
  void quantise();
  void choose_huffman_tables();
  [[nodiscard]] bool write_scan();
  // The levels of a block, or nullptr where it is a dummy.
  const int16_t* levels(size_t component, size_t row, size_t column) const;
  template <typename Visit>
  void visit_mcu_row(size_t mcu_row, Visit visit) const;

  int32_t subsampling_ = 0;
  int32_t effort_ = 0;
  size_t threads_ = 1;
  Mode mode_ = Mode::kNone;
  bool has_chroma_table_ = false;
  uint8_t fixed_[2][64] = {};
  Design design_ = {};
  Buffer<char> comment_;
  size_t comment_size_ = 0;

  Geometry geometry_ = {};
  edgejpeg_statistics statistics_ = {};
  uint8_t used_[2][64] = {};
  HuffmanTable dc_[2] = {};
  HuffmanTable ac_[2] = {};
  Strip* strips_ = nullptr;         // one per thread
  Buffer<double> coefficients_[3];  // row-major blocks; only when the tables are designed
  Buffer<int16_t> levels_[3];       // zigzag blocks
  ByteStream file_;
  ThreadPool pool_;
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_ENCODER_H_
