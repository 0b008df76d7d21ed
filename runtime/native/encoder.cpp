#include "encoder.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "control.h"
#include "markers.h"
#include "segments.h"

namespace edgejpeg {
namespace {

// Memory for the rows of a batch.
constexpr size_t kBatchBytes = size_t{96} << 20;

// From here on a sample of a frame's rows is enough, where that is allowed.
constexpr size_t kManyPixels = 1280 * 720;
constexpr size_t kManyRows = 32;
constexpr size_t kMeasureStep = 4;

bool is_large(const Geometry& geometry) {
  return geometry.width * geometry.height >= kManyPixels && geometry.mcu_rows >= kManyRows;
}

// Rows of MCUs whose symbols are counted before any is coded. They are at most half of all.
constexpr size_t kChoiceShare = 16;
constexpr size_t kMinChoiceRows = 2;
constexpr size_t kOptimalShare = 8;

}  // namespace

Encoder::~Encoder() {
  delete[] rows_;
  delete[] workers_;
}

bool Encoder::start(const edgejpeg_options& options, const Backend& backend) {
  subsampling_ = options.subsampling;
  effort_ = options.effort;
  threads_ = static_cast<size_t>(options.threads);
  quantization_ = options.quantization;
  trellis_weight_ = options.trellis_weight;
  keeps_statistics_ = options.keep_statistics != 0;
  timing_ = options.timing != 0;
  comments_on_control_ = options.comment_control != 0;
  backend_ = &backend;
  options_ = options;
  restart_rows_ = static_cast<size_t>(options.restart_rows);
  stored_lengths_.fill();
  workers_ = new (std::nothrow) Worker[threads_];
  return workers_ != nullptr && pool_.start(threads_);
}

bool Encoder::set_comment(const char* text, size_t size) {
  if (!comment_.reserve(size + kMaxControlText)) return false;
  if (size > 0) std::memcpy(comment_.data(), text, size);
  comment_size_ = size;
  return true;
}

void Encoder::set_tables(const uint8_t* luma, const uint8_t* chroma) {
  mode_ = Mode::kFixed;
  has_chroma_table_ = chroma != nullptr;
  std::memcpy(fixed_[0], luma, kBlockSize);
  if (has_chroma_table_) std::memcpy(fixed_[1], chroma, kBlockSize);
}

void Encoder::set_design(const Design& design) {
  mode_ = Mode::kDesigned;
  design_ = design;
}

void Encoder::set_dead_zone(const double* luma, const double* chroma) {
  const double* const given[2] = {luma, chroma};
  for (size_t slot = 0; slot < 2; ++slot) {
    has_dead_zone_[slot] = given[slot] != nullptr;
    if (has_dead_zone_[slot]) std::copy_n(given[slot], kBlockSize, dead_zone_[slot]);
  }
}

void Encoder::set_ladder(const Ladder& ladder, size_t level) {
  mode_ = Mode::kLadder;
  ladder_ = ladder;
  has_chroma_table_ = true;
  for (size_t i = 0; i < ladder_.count; ++i) has_chroma_table_ &= ladder_.levels[i].has_chroma_table;
  set_level(level);
}

void Encoder::set_level(size_t level) {
  level_ = level;
  has_slope_ = false;
}

void Encoder::set_slope(double slope) {
  slope_ = slope;
  has_slope_ = true;
}

void Encoder::set_budget(size_t max_bytes, double max_bits_per_pixel) {
  max_bytes_ = max_bytes;
  max_bits_per_pixel_ = max_bits_per_pixel;
}

Geometry Encoder::geometry_of(const edgejpeg_image& image) const {
  const size_t horizontal = is_gray(image) ? 0 : subsampling_ == EDGEJPEG_444 ? 1 : 2;
  const size_t vertical = is_gray(image) ? 0 : subsampling_ == EDGEJPEG_420 ? 2 : 1;
  return make_geometry(static_cast<size_t>(image.width), static_cast<size_t>(image.height), horizontal, vertical);
}

size_t Encoder::restart_interval(const edgejpeg_image& image) const {
  const Geometry geometry = geometry_of(image);
  return std::min(restart_rows_, geometry.mcu_rows) * geometry.mcu_columns;
}

Encoder::HuffmanSource Encoder::huffman_source() const {
  if (options_.progressive != 0) return HuffmanSource::kPerScan;
  if (effort_ == 0) return options_.standard_huffman != 0 ? HuffmanSource::kStandard : HuffmanSource::kStored;
  return options_.exact_huffman == 0 && is_large(geometry_) ? HuffmanSource::kSampled : HuffmanSource::kCounted;
}

edgejpeg_status Encoder::encode(const edgejpeg_image& image) {
  geometry_ = geometry_of(image);
  source_ = huffman_source();
  statistics_.components = 0;
  encodes_ = 0;
  std::memset(used_, 0, sizeof(used_));
  is_kept_ = needs_coefficients();
  // Only a design can do with a part of them.
  const bool is_sampled = options_.sampled_statistics != 0 && is_large(geometry_) && !needs_all_coefficients();
  measure_step_ = is_sampled ? kMeasureStep : 1;
  const edgejpeg_status status = reserve() ? encode_reserved(image) : EDGEJPEG_OUT_OF_MEMORY;
  sums_errors_ = false;
  if (status != EDGEJPEG_OK) geometry_.components = statistics_.components = 0;
  return status;
}

edgejpeg_status Encoder::encode_reserved(const edgejpeg_image& image) {
  for (size_t i = 0; i < threads_; ++i) std::memset(workers_[i].nanoseconds, 0, sizeof(workers_[i].nanoseconds));
  if (is_kept_ && is_reference()) {
    if (needs_statistics()) measure_exactly(image);
  } else if (is_kept_) {
    measure(image);
  }
  kept_file_.clear();
  LevelCurve curve(ladder_, geometry_.width * geometry_.height);
  Control control = given_control();
  if (mode_ == Mode::kLadder && has_slope_) control.level = static_cast<int32_t>(level_of_slope(image, &curve));
  if (has_budget()) {
    const size_t bytes = budget(image);
    return mode_ == Mode::kLadder ? fit_level(image, bytes, static_cast<size_t>(control.level), &curve)
                                  : fit_control(image, bytes);
  }
  StageClock clock(stages(workers_));
  set_control(control);
  clock.lap(kDesign);
  return write_file(image) ? EDGEJPEG_OK : EDGEJPEG_OUT_OF_MEMORY;
}

bool Encoder::needs_coefficients() const { return mode_ == Mode::kDesigned || needs_all_coefficients(); }

bool Encoder::needs_all_coefficients() const {
  return has_budget() || (mode_ == Mode::kLadder && has_slope_) || quantization_ != EDGEJPEG_ROUND || keeps_statistics_;
}

// A slope alone is found by counting.
bool Encoder::needs_statistics() const {
  return mode_ == Mode::kDesigned || has_budget() || quantization_ != EDGEJPEG_ROUND || keeps_statistics_;
}

Encoder::Control Encoder::given_control() const {
  switch (mode_) {
    case Mode::kDesigned:
      return {design_.luma_water_level, 0, -1};
    case Mode::kLadder:
      return {0, 1, static_cast<int32_t>(level_)};
    default:
      return {0, 1, -1};
  }
}

double Encoder::chroma_water_level() const { return chroma_level_at(design_, control_.water_level); }

// The tables, the thresholds, and the way to apply them.
void Encoder::set_control(const Control& control) {
  control_ = control;
  const size_t slots = geometry_.components == 1 ? 1 : 2;
  if (mode_ == Mode::kDesigned) {
    Design design = design_;
    design.luma_water_level = control.water_level;
    design.chroma_water_level = chroma_water_level();
    design_luma(design, statistics_, used_[0]);
    if (slots == 2) design_chroma(design, statistics_, used_[1]);
  }
  for (size_t slot = 0; slot < slots; ++slot) {
    if (mode_ == Mode::kLadder) {
      const Ladder::Level& level = ladder_.levels[control.level];
      std::memcpy(used_[slot], level.tables[slot], kBlockSize);
      used_dead_zone_[slot] = level.has_dead_zone[slot] ? level.dead_zone[slot] : nullptr;
      continue;
    }
    if (mode_ == Mode::kFixed) scale_table(fixed_[slot], control.scale, slot, used_[slot]);
    used_dead_zone_[slot] = has_dead_zone_[slot] ? dead_zone_[slot] : nullptr;
  }
  exact_ = is_reference() || expected_differences(geometry_, used_[0], used_[1]) > kMaxDifferences;
  sums_errors_ = exact_ && is_kept_;
  for (size_t slot = 0; slot < slots && !exact_; ++slot) {
    quantiser_[slot] = make_quantiser(used_[slot], used_dead_zone_[slot]);
  }
}

bool Encoder::write_file(const edgejpeg_image& image) {
  ++encodes_;
  choose_huffman_tables(image);
  const bool progressive = source_ == HuffmanSource::kPerScan;
  const Header header = {&geometry_,
                         options_.container == EDGEJPEG_LEAN,
                         progressive,
                         static_cast<uint8_t>(options_.orientation),
                         comment_.data(),
                         comment_size_ + add_control_text(),
                         restart_interval(image),
                         {used_[0], used_[1]},
                         {&dc_[0], &dc_[1]},
                         {&ac_[0], &ac_[1]}};
  file_.clear();
  return write_header(header, &file_) && (progressive ? write_progressive(image) : write_scan(image)) &&
         write_end(&file_);
}

size_t Encoder::add_control_text() {
  if (!comments_on_control_ || comment_size_ == 0) return 0;
  char* const end = comment_.data() + comment_size_;
  if (mode_ == Mode::kLadder) return write_control_text("level", control_.level, end);
  if (mode_ == Mode::kFixed) return has_budget() ? write_control_text("scale", control_.scale, end) : 0;
  const double peak = *std::max_element(design_.sensitivity[0], design_.sensitivity[0] + kBlockSize);
  if (!(peak > 0)) return 0;
  return write_control_text("d", control_.water_level / (10 * peak), end);
}

edgejpeg_result Encoder::result() const {
  edgejpeg_result result = {};
  result.components = static_cast<int32_t>(geometry_.components);
  result.level = control_.level;
  result.encodes = encodes_;
  result.luma_water_level = control_.water_level;
  if (mode_ == Mode::kDesigned && geometry_.components == 3) result.chroma_water_level = chroma_water_level();
  result.scale = control_.scale;
  measure_segments(file_.data(), file_.size(), &result);
  for (size_t i = 0; i < threads_; ++i) {
    for (size_t stage = 0; stage < kStages; ++stage) result.nanoseconds[stage] += workers_[i].nanoseconds[stage];
  }
  return result;
}

bool Encoder::reserve() {
  for (size_t i = 0; i < threads_; ++i) {
    if (!workers_[i].strip.reserve(geometry_)) return false;
  }
  for (size_t c = 0; c < geometry_.components && is_kept_; ++c) {
    const size_t rows = std::min(measured_rows() * geometry_.component[c].vertical, geometry_.component[c].rows);
    if (!coefficients_[c].reserve(rows * pairs(c) * kPairSize)) return false;
  }
  if (is_kept_ && !(row_errors_.reserve(geometry_.mcu_rows) && kept_row_errors_.reserve(geometry_.mcu_rows))) {
    return false;
  }
  return prepare_rows();
}

// With one thread one row at a time is best, since it stays in the cache, if the Huffman tables can be known before all
// rows are quantised. Otherwise as many as memory allows: fewer waits for the slowest thread, and no row is quantised
// twice. Progressive files need all.
bool Encoder::prepare_rows() {
  const size_t blocks = block_offset(geometry_.components, 0);
  const size_t bytes = geometry_.mcu_columns * geometry_.blocks_per_mcu() * kMaxBlockBytes + 1 + kBitSlack;
  const size_t rows = geometry_.mcu_rows;
  const bool has_tokens = source_ == HuffmanSource::kCounted && backend_->write_counted != nullptr;
  const size_t tokens = has_tokens ? geometry_.mcu_columns * geometry_.blocks_per_mcu() * kTokensOfBlock : 0;
  const size_t row_bytes = blocks * (sizeof(Block) + kBlockSize * sizeof(int16_t)) + bytes + tokens * sizeof(int32_t);
  const bool progressive = source_ == HuffmanSource::kPerScan;
  samples_ = 0;
  if (source_ == HuffmanSource::kStored) samples_ = std::max(rows / kChoiceShare, kMinChoiceRows);
  if (source_ == HuffmanSource::kSampled) samples_ = rows / kOptimalShare;
  samples_ = std::min(samples_, std::max(rows / 2, size_t{1}));
  const bool single = threads_ == 1 && source_ != HuffmanSource::kCounted;
  batch_ = progressive ? rows : single ? 1 : std::min(rows, std::max(2 * threads_, kBatchBytes / row_bytes));
  if (batch_ + samples_ > row_capacity_) {
    delete[] rows_;
    row_capacity_ = 0;
    rows_ = new (std::nothrow) Row[batch_ + samples_];
    if (rows_ == nullptr) return false;
    row_capacity_ = batch_ + samples_;
  }
  for (size_t i = 0; i < batch_ + samples_; ++i) {
    Row& row = rows_[i];
    if (!row.blocks.reserve(blocks) || !row.levels.reserve(blocks * kBlockSize)) return false;
    if (!progressive && !row.bytes.reserve(bytes)) return false;
    if (!row.tokens.reserve(tokens)) return false;
  }
  rows_are_filled_ = false;
  return start_dcs_.reserve(std::max(batch_, samples_));
}

// Row i of the batch that begins at row `first`: a row of the sample has its own place.
Encoder::Row& Encoder::row_of(size_t first, size_t i) {
  if (samples_ > 0) {
    const size_t index = (first + i) * samples_ / geometry_.mcu_rows;
    if (sampled_row(index) == first + i) return rows_[batch_ + index];
  }
  return rows_[i];
}

size_t Encoder::block_offset(size_t component, size_t line) const {
  size_t offset = 0;
  for (size_t c = 0; c < component; ++c) offset += 2 * pairs(c) * geometry_.component[c].vertical;
  return component < geometry_.components ? offset + 2 * pairs(component) * line : offset;
}

}  // namespace edgejpeg
