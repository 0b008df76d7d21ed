// The pipeline: colour, DCT, statistics, design, quantization, entropy coding.
#ifndef EDGEJPEG_ENCODER_H_
#define EDGEJPEG_ENCODER_H_

#include <cstddef>
#include <cstdint>

#include "backend.h"
#include "buffer.h"
#include "colour.h"
#include "design.h"
#include "edgejpeg.h"
#include "geometry.h"
#include "huffman.h"
#include "quantise.h"
#include "statistics.h"
#include "stream.h"
#include "threads.h"

namespace edgejpeg {

// All arguments are checked before they come here. Memory is kept from frame to frame.
//
// With tables designed per frame there are two passes over the frame: one that keeps all coefficients and sums them up,
// and one that quantises and codes. With fixed tables the second one makes the coefficients where it needs them. Rows
// of MCUs are the unit of work: a batch of them is quantised, then coded, by all threads; then their bits are appended
// to the file in order.
class Encoder {
 public:
  enum class Mode { kNone, kFixed, kDesigned };

  Encoder() = default;
  ~Encoder();
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  // False when memory or threads are short, as in all that follows.
  [[nodiscard]] bool start(const edgejpeg_options& options, const Backend& backend);
  [[nodiscard]] bool set_comment(const char* text, size_t size);
  void set_tables(const uint8_t* luma, const uint8_t* chroma);
  void set_design(const Design& design);
  [[nodiscard]] bool encode(const edgejpeg_image& image);

  bool is_gray(const edgejpeg_image& image) const {
    return subsampling_ == EDGEJPEG_GRAY || image.format == EDGEJPEG_LUMA;
  }
  const Backend& backend() const { return *backend_; }
  Mode mode() const { return mode_; }
  bool has_chroma_table() const { return has_chroma_table_; }
  // What the last frame gave. The tables and the statistics hold for `components()` components; 0: no frame yet.
  size_t components() const { return geometry_.components; }
  bool has_statistics() const { return statistics_.components > 0; }
  const edgejpeg_statistics& statistics() const { return statistics_; }
  const uint8_t* table(size_t slot) const { return used_[slot]; }
  const ByteStream& file() const { return file_; }

 private:
  // Coefficients are made and used in portions that stay in the first cache: 32 pairs are 8 KiB.
  static constexpr size_t kPortion = 32;
  static_assert(kPortion <= kMaxSummedPairs);

  // What one thread needs.
  struct Worker {
    Strip strip;
    Sums sums[3];
    SymbolCounts dc[2];
    SymbolCounts ac[2];
  };
  // One row of MCUs between quantization and the file.
  struct Row {
    Buffer<Block> blocks;
    Buffer<int16_t> levels;
    Buffer<uint8_t> bytes;  // the first one is the place of the bits left over from the row before
    size_t bits;
  };

  [[nodiscard]] bool reserve();
  [[nodiscard]] bool prepare_rows();
  // Blocks from the beginning of a row's memory to line `line` of a component, two for every pair.
  size_t block_offset(size_t component, size_t line) const;
  size_t pairs(size_t component) const { return divide_up(geometry_.component[component].columns, 2); }

  void measure(const edgejpeg_image& image);
  // The same in float64, for the reference back end: in one thread, two walks over the frame.
  void measure_exactly(const edgejpeg_image& image);
  void sum_exactly(size_t mcu_row, size_t component, bool around_mean);
  void design_tables();
  void fill_row(const edgejpeg_image& image, size_t mcu_row, Row* row, Worker* worker) const;
  McuRow view(size_t mcu_row, const Row& row) const;
  // The DCs that stand before each row of a batch. `end_dc`: those before the batch, then those behind it.
  void start_dcs(size_t first, size_t count, int (*dcs)[3], int* end_dc) const;
  void choose_huffman_tables(const edgejpeg_image& image);
  [[nodiscard]] bool write_scan(const edgejpeg_image& image);

  int32_t subsampling_ = 0;
  int32_t effort_ = 0;
  size_t threads_ = 1;
  const Backend* backend_ = nullptr;
  Mode mode_ = Mode::kNone;
  bool has_chroma_table_ = false;
  uint8_t fixed_[2][kBlockSize] = {};
  Design design_ = {};
  Buffer<char> comment_;
  size_t comment_size_ = 0;

  Geometry geometry_ = {};
  edgejpeg_statistics statistics_ = {};
  uint8_t used_[2][kBlockSize] = {};
  Quantiser quantiser_[2] = {};
  bool exact_ = false;  // the tables are too fine for the int16 DCT, or the back end is the reference
  HuffmanTable dc_[2] = {};
  HuffmanTable ac_[2] = {};
  EntropyCodes standard_codes_[2];
  EntropyCodes optimal_codes_[2];
  Worker* workers_ = nullptr;        // one per thread
  Buffer<int16_t> coefficients_[3];  // pairs of blocks; only when the tables are designed
  Row* rows_ = nullptr;
  size_t row_capacity_ = 0;  // rows that exist
  size_t batch_ = 0;         // rows that are in use
  bool rows_are_filled_ = false;
  Buffer<int[3]> start_dcs_;
  ByteStream file_;
  ThreadPool pool_;
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_ENCODER_H_
