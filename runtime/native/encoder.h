// The pipeline: colour, DCT, statistics, design, quantization, entropy coding.
#ifndef EDGEJPEG_ENCODER_H_
#define EDGEJPEG_ENCODER_H_

#include <cstddef>
#include <cstdint>

#include "backend.h"
#include "buffer.h"
#include "clock.h"
#include "colour.h"
#include "comment.h"
#include "design.h"
#include "edgejpeg.h"
#include "geometry.h"
#include "huffman.h"
#include "huffman_sets.h"
#include "ladder.h"
#include "quantise.h"
#include "statistics.h"
#include "stream.h"
#include "threads.h"
#include "trellis.h"

namespace edgejpeg {

// All arguments are checked before they come here. Memory is kept from frame to frame.
//
// With tables designed per frame there are two passes over the frame: one that keeps all coefficients and sums them up,
// and one that quantises and codes. With given tables the second one makes the coefficients where it needs them, unless
// something else needs them kept. For a budget the second pass is repeated. Rows of MCUs are the unit of work: a batch
// of them is quantised, then coded, by all threads; then their bits are appended to the file in order.
// Where the Huffman tables come from a sample, its rows are quantised first, and kept.
class Encoder {
 public:
  enum class Mode { kNone, kFixed, kDesigned, kLadder };

  Encoder() = default;
  ~Encoder();
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  // False when memory or threads are short, as in all that follows.
  [[nodiscard]] bool start(const edgejpeg_options& options, const Backend& backend);
  [[nodiscard]] bool set_comment(const char* text, size_t size);
  void set_tables(const uint8_t* luma, const uint8_t* chroma);
  void set_design(const Design& design);
  void set_dead_zone(const double* luma, const double* chroma);
  void set_ladder(const Ladder& ladder, size_t level);
  void set_level(size_t level);
  void set_slope(double slope);
  void set_budget(size_t max_bytes, double max_bits_per_pixel);
  // EDGEJPEG_OK, EDGEJPEG_OUT_OF_MEMORY or EDGEJPEG_BUDGET_NOT_MET, with smallest_size().
  [[nodiscard]] edgejpeg_status encode(const edgejpeg_image& image);

  bool is_gray(const edgejpeg_image& image) const {
    return subsampling_ == EDGEJPEG_GRAY || image.format == EDGEJPEG_LUMA;
  }
  const Backend& backend() const { return *backend_; }
  Mode mode() const { return mode_; }
  bool has_chroma_table() const { return has_chroma_table_; }
  size_t levels() const { return ladder_.count; }
  size_t max_comment() const { return EDGEJPEG_MAX_COMMENT - (comments_on_control_ ? kMaxControlText : 0); }
  // What the last frame gave. The tables and the statistics hold for `components()` components; 0: no frame yet.
  size_t components() const { return geometry_.components; }
  bool has_statistics() const { return statistics_.components > 0; }
  const edgejpeg_statistics& statistics() const { return statistics_; }
  const uint8_t* table(size_t slot) const { return used_[slot]; }
  const ByteStream& file() const { return file_; }
  size_t smallest_size() const { return smallest_size_; }
  edgejpeg_result result() const;
  // Of the last frame, by component; it has_all_coefficients().
  bool has_all_coefficients() const { return has_statistics() && measure_step_ == 1; }
  void weighted_errors(double* swe);
  // In MCUs; 0 for none. A file holds at most 65535.
  size_t restart_interval(const edgejpeg_image& image) const;

 private:
  // Where the Huffman tables of a frame come from.
  enum class HuffmanSource { kStandard, kStored, kSampled, kCounted, kPerScan };
  // Coefficients are made and used in portions that stay in the first cache: 32 pairs are 8 KiB.
  static constexpr size_t kPortion = 32;
  static_assert(kPortion <= kMaxSummedPairs);

  // What one thread needs.
  struct Worker {
    Strip strip;
    Sums sums[3];
    SymbolCounts dc[2];
    SymbolCounts ac[2];
    uint64_t nanoseconds[kStages];
  };
  // What the last pass goes by: a raw luma water level, the scale of given tables, or a level of the ladder.
  struct Control {
    double water_level;
    double scale;
    int32_t level;
  };
  // One row of MCUs between quantization and the file.
  struct Row {
    Buffer<Block> blocks;
    Buffer<int16_t> levels;
    Buffer<uint8_t> bytes;  // the first one is the place of the bits left over from the row before
    size_t bits;
    Buffer<int32_t> tokens;  // where all rows are counted before the first is coded
    CountedRow counted;
  };

  [[nodiscard]] edgejpeg_status encode_reserved(const edgejpeg_image& image);
  Geometry geometry_of(const edgejpeg_image& image) const;
  HuffmanSource huffman_source() const;
  [[nodiscard]] bool reserve();
  [[nodiscard]] bool prepare_rows();
  // Blocks from the beginning of a row's memory to line `line` of a component, two for every pair.
  size_t block_offset(size_t component, size_t line) const;
  size_t pairs(size_t component) const { return divide_up(geometry_.component[component].columns, 2); }
  // Every measure_step_-th row of MCUs is measured, and its coefficients are kept.
  size_t measured_rows() const { return (geometry_.mcu_rows + measure_step_ - 1 - measure_step_ / 2) / measure_step_; }
  bool is_measured(size_t mcu_row) const { return is_kept_ && mcu_row % measure_step_ == measure_step_ / 2; }
  size_t measured_blocks(size_t component) const;
  // The rows of MCUs of the sample for the Huffman tables, evenly over the frame.
  size_t sampled_row(size_t index) const { return (2 * index + 1) * geometry_.mcu_rows / (2 * samples_); }
  Row& row_of(size_t first, size_t i);
  bool is_restart(size_t mcu_row) const { return restart_rows_ > 0 && mcu_row % restart_rows_ == 0; }

  void measure(const edgejpeg_image& image);
  // The same in float64, for the reference back end: in one thread, two walks over the frame.
  void measure_exactly(const edgejpeg_image& image);
  void sum_exactly(size_t mcu_row, size_t component, bool around_mean);

  bool is_reference() const { return backend_->transform_exactly != nullptr; }
  bool has_budget() const { return max_bytes_ > 0 || max_bits_per_pixel_ > 0; }
  bool needs_coefficients() const;
  bool needs_all_coefficients() const;
  bool needs_statistics() const;
  Control given_control() const;
  double chroma_water_level() const;
  void set_control(const Control& control);
  void set_trellis(size_t component);
  [[nodiscard]] bool write_file(const edgejpeg_image& image);
  size_t add_control_text();  // behind the comment; returns its size

  size_t budget(const edgejpeg_image& image) const;
  [[nodiscard]] edgejpeg_status fit_control(const edgejpeg_image& image, size_t budget);
  [[nodiscard]] edgejpeg_status fit_level(const edgejpeg_image& image, size_t budget, size_t highest,
                                          LevelCurve* curve);
  size_t level_of_slope(const edgejpeg_image& image, LevelCurve* curve);
  // Bytes of the file with a level of the ladder, by counting the codes of some rows: without what all levels have
  // alike, and without the stuffed bytes.
  double level_bytes(const edgejpeg_image& image, size_t level, LevelCurve* curve);
  double counted_bytes(const edgejpeg_image& image, size_t blocks);
  // One row of MCUs of so many, at most `most`, holds at least so many blocks.
  size_t sampling_stride(size_t blocks, size_t most) const;
  // Of the tries of a frame the file that fits, and what it was coded with.
  void keep_file();
  void take_kept_file();

  void fill_row(const edgejpeg_image& image, size_t mcu_row, Row* row, Worker* worker);
  // For the blocks of one line, given where they came from: the frame's samples or the kept coefficients.
  void weigh_codes(size_t component, size_t block_row, const int8_t* samples, Block* blocks, int16_t* levels) const;
  double errors(size_t component, size_t block_row, const int8_t* samples, const Block* blocks,
                const int16_t* levels) const;
  void load_block(size_t component, size_t block_row, size_t column, const int8_t* samples, double* raster) const;
  const int16_t* kept_line(size_t component, size_t block_row) const;
  McuRow view(size_t mcu_row, const Row& row) const;
  // The DCs that stand before each row of a batch. `end_dc`: those before the batch, then those behind it.
  void start_dcs(size_t first, size_t count, int (*dcs)[3], int* end_dc);
  void choose_huffman_tables(const edgejpeg_image& image);
  // The code lengths that the trellis goes by.
  void choose_trellis_lengths(const edgejpeg_image& image);
  void set_trellis_lengths();
  // Counts of symbols, of all threads, end in the first worker.
  void clear_counts();
  void add_counts();
  // Quantises one row of `stride` and counts its symbols. Returns the number of rows.
  size_t count_symbols(const edgejpeg_image& image, size_t stride);
  void count_sample(const edgejpeg_image& image);
  void count_all(const edgejpeg_image& image);
  // Of a row's first DCs the differences are not known; they count as 0.
  void count_alone(size_t mcu_row, const Row& row, Worker* worker) const;
  void choose_from_sample(const edgejpeg_image& image);  // which may be empty, for the standard tables
  // For what was counted.
  void make_tables(bool from_sample);
  void choose_stored_tables();
  void make_optimal_tables(bool from_sample);
  void fill_batch(const edgejpeg_image& image, size_t first, size_t count);
  uint64_t* stages(Worker* worker) const { return timing_ ? worker->nanoseconds : nullptr; }
  [[nodiscard]] bool write_scan(const edgejpeg_image& image);
  [[nodiscard]] bool write_progressive(const edgejpeg_image& image);

  int32_t subsampling_ = 0;
  int32_t effort_ = 0;
  edgejpeg_options options_ = {};
  size_t threads_ = 1;
  const Backend* backend_ = nullptr;
  Mode mode_ = Mode::kNone;
  bool has_chroma_table_ = false;
  uint8_t fixed_[2][kBlockSize] = {};
  Design design_ = {};
  Ladder ladder_ = {};
  size_t level_ = 0;
  bool has_slope_ = false;
  double slope_ = 0;
  bool has_dead_zone_[2] = {};
  double dead_zone_[2][kBlockSize] = {};
  size_t max_bytes_ = 0;
  double max_bits_per_pixel_ = 0;
  int32_t quantization_ = EDGEJPEG_ROUND;
  double trellis_weight_ = 0;
  bool keeps_statistics_ = false;
  bool timing_ = false;
  bool comments_on_control_ = false;
  Buffer<char> comment_;
  size_t comment_size_ = 0;

  Geometry geometry_ = {};
  edgejpeg_statistics statistics_ = {};
  bool is_kept_ = false;  // the coefficients and statistics of this frame
  Control control_ = {};
  int32_t encodes_ = 0;
  size_t smallest_size_ = 0;
  uint8_t used_[2][kBlockSize] = {};
  const double* used_dead_zone_[2] = {};
  Quantiser quantiser_[2] = {};
  Trellis trellis_[3];
  bool weighs_codes_ = false;  // by trellis_
  bool sums_errors_ = false;   // into row_errors_
  bool exact_ = false;         // the tables are too fine for the int16 DCT, or the back end is the reference
  HuffmanSource source_ = HuffmanSource::kStandard;
  HuffmanTable dc_[2] = {};
  HuffmanTable ac_[2] = {};
  const EntropyCodes* codes_[2] = {};
  StoredLengths stored_lengths_;
  EntropyCodes stored_codes_[2][kAcChoices];  // by AC table; made when first used
  bool has_stored_codes_[2][kAcChoices] = {};
  EntropyCodes optimal_codes_[2];
  Worker* workers_ = nullptr;        // one per thread
  Buffer<int16_t> coefficients_[3];  // pairs of blocks of the measured rows; of a frame that is kept
  size_t measure_step_ = 1;
  Buffer<double[3]> row_errors_;  // by row of MCUs and component; rows from the frame are compared when quantised
  Row* rows_ = nullptr;
  size_t row_capacity_ = 0;  // rows that exist
  size_t batch_ = 0;         // rows that are in use, and behind them
  size_t samples_ = 0;       // those of the sample
  size_t restart_rows_ = 0;
  bool rows_are_filled_ = false;
  Buffer<int[3]> start_dcs_;
  Buffer<McuRow> views_;  // of all rows, for a progressive file
  ByteStream file_;
  ByteStream kept_file_;
  Buffer<double[3]> kept_row_errors_;
  Control kept_control_ = {};
  Trellis kept_trellis_[3];
  ThreadPool pool_;
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_ENCODER_H_
