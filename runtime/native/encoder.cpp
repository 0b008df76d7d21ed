#include "encoder.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "markers.h"

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
  options_ = options;
  restart_rows_ = static_cast<size_t>(options.restart_rows);
  backend_ = &backend;
  stored_lengths_.fill();
  workers_ = new (std::nothrow) Worker[threads_];
  return workers_ != nullptr && pool_.start(threads_);
}

bool Encoder::set_comment(const char* text, size_t size) {
  if (!comment_.reserve(size)) return false;
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

bool Encoder::encode(const edgejpeg_image& image) {
  geometry_ = geometry_of(image);
  source_ = huffman_source();
  measure_step_ = options_.sampled_statistics != 0 && is_large(geometry_) ? kMeasureStep : 1;
  statistics_.components = 0;
  std::memset(used_, 0, sizeof(used_));
  if (!reserve()) {
    geometry_.components = 0;
    return false;
  }
  const size_t slots = geometry_.components == 1 ? 1 : 2;
  if (mode_ == Mode::kFixed) {
    std::memcpy(used_, fixed_, slots * kBlockSize);
  } else {
    if (backend_->transform_exactly != nullptr) {
      measure_exactly(image);
    } else {
      measure(image);
    }
    design_tables();
  }
  exact_ =
      backend_->transform_exactly != nullptr || expected_differences(geometry_, used_[0], used_[1]) > kMaxDifferences;
  for (size_t slot = 0; slot < slots && !exact_; ++slot) quantiser_[slot] = make_quantiser(used_[slot], nullptr);
  const bool progressive = source_ == HuffmanSource::kPerScan;
  if (!progressive) choose_huffman_tables(image);
  const Header header = {&geometry_,
                         options_.container == EDGEJPEG_LEAN,
                         progressive,
                         static_cast<uint8_t>(options_.orientation),
                         comment_.data(),
                         comment_size_,
                         restart_interval(image),
                         {used_[0], used_[1]},
                         {&dc_[0], &dc_[1]},
                         {&ac_[0], &ac_[1]}};
  file_.clear();
  if (!write_header(header, &file_) || !(progressive ? write_progressive(image) : write_scan(image)) ||
      !write_end(&file_)) {
    geometry_.components = 0;
    return false;
  }
  return true;
}

bool Encoder::reserve() {
  for (size_t i = 0; i < threads_; ++i) {
    if (!workers_[i].strip.reserve(geometry_)) return false;
  }
  for (size_t c = 0; c < geometry_.components && mode_ == Mode::kDesigned; ++c) {
    const size_t rows = std::min(measured_rows() * geometry_.component[c].vertical, geometry_.component[c].rows);
    if (!coefficients_[c].reserve(rows * pairs(c) * kPairSize)) return false;
  }
  return prepare_rows();
}

// With one thread one row at a time is best, since it stays in the cache, if the Huffman tables can be known before all
// rows are quantised. Otherwise as many as memory allows: fewer waits for the slowest thread, and no row is quantised
// twice. Progressive files need all.
bool Encoder::prepare_rows() {
  const size_t blocks = block_offset(geometry_.components, 0);
  const size_t bytes = geometry_.mcu_columns * geometry_.blocks_per_mcu() * kMaxBlockBytes + 1 + kBitSlack;
  const size_t row_bytes = blocks * (sizeof(Block) + kBlockSize * sizeof(int16_t)) + bytes;
  const size_t rows = geometry_.mcu_rows;
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

void Encoder::design_tables() {
  design_luma(design_, statistics_, used_[0]);
  if (geometry_.components == 3) design_chroma(design_, statistics_, used_[1]);
}

}  // namespace edgejpeg
