#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "dct.h"
#include "markers.h"

namespace edgejpeg {
namespace {

// Coefficients are made and used in portions that stay in the first cache: 32 pairs are 8 KiB.
constexpr size_t kPortion = 32;
static_assert(kPortion <= kMaxSummedPairs);

// Memory for the rows of a batch.
constexpr size_t kBatchBytes = size_t{96} << 20;

// A last pair of which only the first block is real must not enter the statistics.
void clear_second_block(int16_t* pair) {
  for (size_t u = 0; u < 8; ++u) std::memset(pair + 16 * u + 8, 0, 8 * sizeof(*pair));
}

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
  for (size_t slot = 0; slot < slots && !exact_; ++slot) quantiser_[slot] = make_quantiser(used_[slot], nullptr);
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

// Colour, DCT and statistics of the whole frame.
void Encoder::measure(const edgejpeg_image& image) {
  for (size_t i = 0; i < threads_; ++i) std::memset(workers_[i].sums, 0, sizeof(workers_[i].sums));
  // From the bottom up: the coefficients that are quantised first are those that were stored last, still in a cache.
  pool_.for_each(geometry_.mcu_rows, [&](size_t item, size_t worker_index) {
    const size_t mcu_row = geometry_.mcu_rows - 1 - item;
    Worker& worker = workers_[worker_index];
    convert_mcu_row(image, geometry_, *backend_, mcu_row, &worker.strip);
    for (size_t c = 0; c < geometry_.components; ++c) {
      const Component& component = geometry_.component[c];
      const size_t stride = Strip::stride(geometry_, c);
      const size_t count = pairs(c);
      for (size_t line = 0; line < component.vertical; ++line) {
        const size_t row = mcu_row * component.vertical + line;
        if (row >= component.rows) break;
        const int8_t* const samples = worker.strip.samples[c].data() + 8 * line * stride;
        int16_t* const out = coefficients_[c].data() + row * count * kPairSize;
        for (size_t pair = 0; pair < count; pair += kPortion) {
          const size_t portion = std::min(kPortion, count - pair);
          int16_t* const coefficients = out + pair * kPairSize;
          backend_->transform(samples + 16 * pair, stride, portion, coefficients);
          if (pair + portion == count && component.columns % 2 != 0) {
            clear_second_block(coefficients + (portion - 1) * kPairSize);
          }
          backend_->accumulate(coefficients, portion, &worker.sums[c]);
        }
      }
    }
  });
  statistics_ = {};
  statistics_.components = static_cast<int32_t>(geometry_.components);
  for (size_t c = 0; c < geometry_.components; ++c) {
    Sums total = {};
    for (size_t i = 0; i < threads_; ++i) total.add(workers_[i].sums[c]);
    finish_statistics(total, geometry_.component[c].blocks(), c, &statistics_);
  }
}

void Encoder::measure_exactly(const edgejpeg_image& image) {
  statistics_ = {};
  statistics_.components = static_cast<int32_t>(geometry_.components);
  for (const bool around_mean : {false, true}) {
    for (size_t mcu_row = 0; mcu_row < geometry_.mcu_rows; ++mcu_row) {
      convert_mcu_row(image, geometry_, *backend_, mcu_row, &workers_->strip);
      for (size_t c = 0; c < geometry_.components; ++c) sum_exactly(mcu_row, c, around_mean);
    }
    for (size_t c = 0; c < geometry_.components; ++c) {
      const size_t blocks = geometry_.component[c].blocks();
      statistics_.blocks[c] = static_cast<int64_t>(blocks);
      for (size_t i = 0; i < kBlockSize; ++i) {
        if (around_mean) {
          statistics_.variance[c][i] /= static_cast<double>(blocks);
        } else {
          statistics_.mean[c][i] /= static_cast<double>(blocks);
          statistics_.laplace_scale[c][i] /= static_cast<double>(blocks);
        }
      }
    }
  }
}

void Encoder::sum_exactly(size_t mcu_row, size_t c, bool around_mean) {
  const Component& component = geometry_.component[c];
  const size_t stride = Strip::stride(geometry_, c);
  for (size_t line = 0; line < component.vertical && mcu_row * component.vertical + line < component.rows; ++line) {
    const int8_t* samples = workers_->strip.samples[c].data() + 8 * line * stride;
    for (size_t column = 0; column < component.columns; ++column, samples += 8) {
      double coefficients[kBlockSize];
      backend_->transform_exactly(samples, stride, coefficients);
      for (size_t i = 0; i < kBlockSize; ++i) {
        if (around_mean) {
          const double difference = coefficients[i] - statistics_.mean[c][i];
          statistics_.variance[c][i] += difference * difference;
        } else {
          statistics_.mean[c][i] += coefficients[i];
          statistics_.laplace_scale[c][i] += std::fabs(coefficients[i]);
        }
      }
    }
  }
}

void Encoder::design_tables() {
  design_luma(design_, statistics_, used_[0]);
  if (geometry_.components == 3) design_chroma(design_, statistics_, used_[1]);
}

// Quantises a row of MCUs, from the stored coefficients or from the frame.
void Encoder::fill_row(const edgejpeg_image& image, size_t mcu_row, Row* row, Worker* worker) const {
  const bool stored = mode_ == Mode::kDesigned && !exact_;
  if (!stored) convert_mcu_row(image, geometry_, *backend_, mcu_row, &worker->strip);
  for (size_t c = 0; c < geometry_.components; ++c) {
    const Component& component = geometry_.component[c];
    const size_t stride = Strip::stride(geometry_, c);
    const size_t count = pairs(c);
    const Quantiser& quantiser = quantiser_[component.table];
    for (size_t line = 0; line < component.vertical; ++line) {
      const size_t block_row = mcu_row * component.vertical + line;
      if (block_row >= component.rows) break;
      const size_t offset = block_offset(c, line);
      Block* const blocks = row->blocks.data() + offset;
      int16_t* const levels = row->levels.data() + offset * kBlockSize;
      const int8_t* const samples = worker->strip.samples[c].data() + 8 * line * stride;
      if (exact_) {
        backend_->quantise_exactly(samples, stride, component.columns, used_[component.table], nullptr, blocks, levels);
      } else if (stored) {
        const int16_t* const coefficients = coefficients_[c].data() + block_row * count * kPairSize;
        backend_->quantise(coefficients, count, quantiser, blocks, levels);
      } else {
        for (size_t pair = 0; pair < count; pair += kPortion) {
          const size_t portion = std::min(kPortion, count - pair);
          alignas(64) int16_t coefficients[kPortion * kPairSize];
          backend_->transform(samples + 16 * pair, stride, portion, coefficients);
          backend_->quantise(coefficients, portion, quantiser, blocks + 2 * pair, levels + pair * kPairSize);
        }
      }
    }
  }
}

McuRow Encoder::view(size_t mcu_row, const Row& row) const {
  McuRow view = {geometry_.components, geometry_.mcu_columns, {}};
  for (size_t c = 0; c < geometry_.components; ++c) {
    const Component& component = geometry_.component[c];
    McuRow::Plane& plane = view.plane[c];
    for (size_t line = 0; line < component.vertical; ++line) {
      plane.blocks[line] = row.blocks.data() + block_offset(c, line);
      plane.levels[line] = row.levels.data() + block_offset(c, line) * kBlockSize;
    }
    plane.horizontal = component.horizontal;
    plane.vertical = component.vertical;
    plane.columns = component.columns;
    plane.lines = std::min(component.vertical, component.rows - mcu_row * component.vertical);
  }
  return view;
}

void Encoder::start_dcs(size_t first, size_t count, int (*dcs)[3], int* end_dc) const {
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(dcs[i], end_dc, sizeof(dcs[i]));
    for (size_t c = 0; c < geometry_.components; ++c) {
      // In scan order the last real block of a row of MCUs is the last one of its last real line.
      const Component& component = geometry_.component[c];
      const size_t lines = std::min(component.vertical, component.rows - (first + i) * component.vertical);
      end_dc[c] = rows_[i].blocks.data()[block_offset(c, lines - 1) + component.columns - 1].dc;
    }
  }
}

void Encoder::choose_huffman_tables(const edgejpeg_image& image) {
  const size_t slots = geometry_.components == 1 ? 1 : 2;
  if (effort_ == 0) {
    for (size_t slot = 0; slot < slots; ++slot) {
      dc_[slot] = kStandardDc[slot];
      ac_[slot] = kStandardAc[slot];
    }
    return;
  }
  for (size_t i = 0; i < threads_; ++i) {
    std::memset(workers_[i].dc, 0, sizeof(workers_[i].dc));
    std::memset(workers_[i].ac, 0, sizeof(workers_[i].ac));
  }
  int end_dc[3] = {};
  for (size_t first = 0; first < geometry_.mcu_rows; first += batch_) {
    const size_t count = std::min(batch_, geometry_.mcu_rows - first);
    pool_.for_each(count, [&](size_t i, size_t worker) { fill_row(image, first + i, rows_ + i, workers_ + worker); });
    start_dcs(first, count, start_dcs_.data(), end_dc);
    pool_.for_each(count, [&](size_t i, size_t worker) {
      backend_->count(view(first + i, rows_[i]), start_dcs_.data()[i], workers_[worker].dc, workers_[worker].ac);
    });
  }
  rows_are_filled_ = batch_ == geometry_.mcu_rows;
  for (size_t slot = 0; slot < slots; ++slot) {
    for (size_t i = 1; i < threads_; ++i) {
      workers_[0].dc[slot].add(workers_[i].dc[slot]);
      workers_[0].ac[slot].add(workers_[i].ac[slot]);
    }
    dc_[slot] = optimal_table(workers_[0].dc[slot]);
    ac_[slot] = optimal_table(workers_[0].ac[slot]);
    make_codes(dc_[slot], ac_[slot], &optimal_codes_[slot]);
  }
}

bool Encoder::write_scan(const edgejpeg_image& image) {
  const EntropyCodes* const made = effort_ == 0 ? standard_codes_ : optimal_codes_;
  const EntropyCodes* const codes[2] = {made, made + 1};
  int end_dc[3] = {};
  uint8_t left_over = 0;  // the bits behind the last whole byte, in the low places
  unsigned left_over_bits = 0;
  for (size_t first = 0; first < geometry_.mcu_rows; first += batch_) {
    const size_t count = std::min(batch_, geometry_.mcu_rows - first);
    if (!rows_are_filled_) {
      pool_.for_each(count, [&](size_t i, size_t worker) { fill_row(image, first + i, rows_ + i, workers_ + worker); });
    }
    start_dcs(first, count, start_dcs_.data(), end_dc);
    pool_.for_each(count, [&](size_t i, size_t) {
      rows_[i].bits =
          backend_->write(view(first + i, rows_[i]), start_dcs_.data()[i], codes, rows_[i].bytes.data() + 1);
    });
    for (size_t i = 0; i < count; ++i) {
      uint8_t* const bytes = rows_[i].bytes.data() + 1;
      const size_t bits = left_over_bits + rows_[i].bits;
      const size_t whole = bits / 8;
      bytes[-1] = left_over;
      if (!file_.reserve(2 * whole + kBitSlack)) return false;
      file_.set_end(backend_->append(bytes, whole, left_over_bits, file_.end()));
      const unsigned rest = static_cast<unsigned>(bits % 8);
      // What would be the next byte, its used bits brought down.
      const auto next =
          static_cast<uint8_t>((bytes[static_cast<ptrdiff_t>(whole) - 1] << 8 | bytes[whole]) >> left_over_bits);
      left_over = static_cast<uint8_t>(next >> (8 - rest));
      left_over_bits = rest;
    }
  }
  if (left_over_bits == 0) return true;
  if (!file_.reserve(2)) return false;
  const auto last = static_cast<uint8_t>(left_over << (8 - left_over_bits) | 0xFF >> left_over_bits);
  file_.put(last);
  if (last == 0xFF) file_.put(0);
  return true;
}

}  // namespace edgejpeg
