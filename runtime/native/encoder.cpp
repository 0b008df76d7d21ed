#include "encoder.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "markers.h"

namespace edgejpeg {
namespace {

// Memory for the rows of a batch.
constexpr size_t kBatchBytes = size_t{96} << 20;

}  // namespace

Encoder::~Encoder() {
  delete[] rows_;
  delete[] workers_;
}

bool Encoder::start(const edgejpeg_options& options, const Backend& backend) {
  subsampling_ = options.subsampling;
  effort_ = options.effort;
  threads_ = static_cast<size_t>(options.threads);
  backend_ = &backend;
  for (size_t slot = 0; slot < 2; ++slot) {
    make_codes(kStandardDc[slot], kStandardAc[slot], &standard_codes_[slot]);
  }
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

bool Encoder::encode(const edgejpeg_image& image) {
  const size_t horizontal = is_gray(image) ? 0 : subsampling_ == EDGEJPEG_444 ? 1 : 2;
  const size_t vertical = is_gray(image) ? 0 : subsampling_ == EDGEJPEG_420 ? 2 : 1;
  geometry_ = make_geometry(static_cast<size_t>(image.width), static_cast<size_t>(image.height), horizontal, vertical);
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
  for (size_t slot = 0; slot < slots && !exact_; ++slot) quantiser_[slot] = make_quantiser(used_[slot]);
  choose_huffman_tables(image);
  const Header header = {&geometry_,           comment_.data(),    comment_size_,
                         {used_[0], used_[1]}, {&dc_[0], &dc_[1]}, {&ac_[0], &ac_[1]}};
  file_.clear();
  if (!write_header(header, &file_) || !write_scan(image) || !write_end(&file_)) {
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
    if (!coefficients_[c].reserve(geometry_.component[c].rows * pairs(c) * kPairSize)) return false;
  }
  return prepare_rows();
}

// With one thread and stored Huffman tables one row at a time is best, since it stays in the cache. Otherwise as many
// as memory allows: fewer waits for the slowest thread, and no row is quantised twice.
bool Encoder::prepare_rows() {
  const size_t blocks = block_offset(geometry_.components, 0);
  const size_t bytes = geometry_.mcu_columns * geometry_.blocks_per_mcu() * kMaxBlockBytes + 1 + kBitSlack;
  const size_t row_bytes = blocks * (sizeof(Block) + kBlockSize * sizeof(int16_t)) + bytes;
  const bool single = threads_ == 1 && effort_ == 0;
  batch_ = single ? 1 : std::min(geometry_.mcu_rows, std::max(2 * threads_, kBatchBytes / row_bytes));
  if (batch_ > row_capacity_) {
    delete[] rows_;
    row_capacity_ = 0;
    rows_ = new (std::nothrow) Row[batch_];
    if (rows_ == nullptr) return false;
    row_capacity_ = batch_;
  }
  for (size_t i = 0; i < batch_; ++i) {
    Row& row = rows_[i];
    if (!row.blocks.reserve(blocks) || !row.levels.reserve(blocks * kBlockSize) || !row.bytes.reserve(bytes)) {
      return false;
    }
  }
  rows_are_filled_ = false;
  return start_dcs_.reserve(batch_);
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
