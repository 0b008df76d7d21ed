#include "encoder.h"

#include <cstring>
#include <new>

#include "dct.h"
#include "markers.h"
#include "quantise.h"
#include "statistics.h"

namespace edgejpeg {

Encoder::~Encoder() { delete[] strips_; }

bool Encoder::start(const edgejpeg_options& options) {
  subsampling_ = options.subsampling;
  effort_ = options.effort;
  threads_ = static_cast<size_t>(options.threads);
  strips_ = new (std::nothrow) Strip[threads_];
  return strips_ != nullptr && pool_.start(threads_);
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
  if (mode_ == Mode::kFixed) {
    std::memcpy(used_[0], fixed_[0], kBlockSize);
    if (geometry_.components == 3) std::memcpy(used_[1], fixed_[1], kBlockSize);
    transform(image);
  } else {
    transform(image);
    measure();
    design_tables();
    quantise();
  }
  choose_huffman_tables();
  const Header header = {&geometry_,           comment_.data(),    comment_size_,
                         {used_[0], used_[1]}, {&dc_[0], &dc_[1]}, {&ac_[0], &ac_[1]}};
  file_.clear();
  if (!write_header(header, &file_) || !write_scan() || !write_end(&file_)) {
    geometry_.components = 0;
    return false;
  }
  return true;
}

bool Encoder::reserve() {
  for (size_t i = 0; i < threads_; ++i) {
    if (!strips_[i].reserve(geometry_)) return false;
  }
  for (size_t c = 0; c < geometry_.components; ++c) {
    const size_t count = geometry_.component[c].blocks() * kBlockSize;
    if (!levels_[c].reserve(count)) return false;
    if (mode_ == Mode::kDesigned && !coefficients_[c].reserve(count)) return false;
  }
  return true;
}

void Encoder::transform(const edgejpeg_image& image) {
  pool_.for_each(geometry_.mcu_rows,
                 [&](size_t mcu_row, size_t worker) { transform_mcu_row(image, mcu_row, &strips_[worker]); });
}

// Colour and DCT; with fixed tables the levels as well, so that the coefficients need not be kept.
void Encoder::transform_mcu_row(const edgejpeg_image& image, size_t mcu_row, Strip* strip) {
  convert_mcu_row(image, geometry_, mcu_row, strip);
  for (size_t c = 0; c < geometry_.components; ++c) {
    const Component& component = geometry_.component[c];
    const size_t stride = Strip::stride(geometry_, c);
    for (size_t i = 0; i < component.vertical; ++i) {
      const size_t row = mcu_row * component.vertical + i;
      if (row >= component.rows) break;
      const int8_t* const samples = strip->samples[c].data() + 8 * i * stride;
      for (size_t column = 0; column < component.columns; ++column) {
        const size_t offset = (row * component.columns + column) * kBlockSize;
        if (mode_ == Mode::kDesigned) {
          forward_dct(samples + 8 * column, stride, coefficients_[c].data() + offset);
        } else {
          double coefficients[kBlockSize];
          forward_dct(samples + 8 * column, stride, coefficients);
          quantise_block(coefficients, used_[component.table], levels_[c].data() + offset);
        }
      }
    }
  }
}

void Encoder::measure() {
  statistics_ = {};
  constexpr size_t kGroups = kBlockSize / kStatisticsGroup;
  pool_.for_each(geometry_.components * kGroups, [&](size_t item, size_t) {
    const size_t c = item / kGroups;
    group_statistics(coefficients_[c].data(), geometry_.component[c].blocks(), item % kGroups * kStatisticsGroup,
                     statistics_.mean[c], statistics_.variance[c], statistics_.laplace_scale[c]);
  });
  statistics_.components = static_cast<int32_t>(geometry_.components);
  for (size_t c = 0; c < geometry_.components; ++c) {
    statistics_.blocks[c] = static_cast<int64_t>(geometry_.component[c].blocks());
  }
}

void Encoder::design_tables() {
  design_luma(design_, statistics_, used_[0]);
  if (geometry_.components == 3) design_chroma(design_, statistics_, used_[1]);
}

void Encoder::quantise() {
  for (size_t c = 0; c < geometry_.components; ++c) {
    const Component& component = geometry_.component[c];
    pool_.for_each(component.rows, [&](size_t row, size_t) {
      for (size_t column = 0; column < component.columns; ++column) {
        const size_t offset = (row * component.columns + column) * kBlockSize;
        quantise_block(coefficients_[c].data() + offset, used_[component.table], levels_[c].data() + offset);
      }
    });
  }
}

const int16_t* Encoder::levels(size_t component, size_t row, size_t column) const {
  const Component& shape = geometry_.component[component];
  if (row >= shape.rows || column >= shape.columns) return nullptr;
  return levels_[component].data() + (row * shape.columns + column) * kBlockSize;
}

// Calls visit(component, levels) for the blocks of a row of MCUs in scan order.
template <typename Visit>
void Encoder::visit_mcu_row(size_t mcu_row, Visit visit) const {
  for (size_t mcu_column = 0; mcu_column < geometry_.mcu_columns; ++mcu_column) {
    for (size_t c = 0; c < geometry_.components; ++c) {
      const Component& component = geometry_.component[c];
      for (size_t i = 0; i < component.vertical; ++i) {
        for (size_t j = 0; j < component.horizontal; ++j) {
          visit(c, levels(c, mcu_row * component.vertical + i, mcu_column * component.horizontal + j));
        }
      }
    }
  }
}

void Encoder::choose_huffman_tables() {
  const size_t slots = geometry_.components == 1 ? 1 : 2;
  if (effort_ == 0) {
    for (size_t slot = 0; slot < slots; ++slot) {
      dc_[slot] = kStandardDc[slot];
      ac_[slot] = kStandardAc[slot];
    }
    return;
  }
  SymbolCounts dc[2] = {};
  SymbolCounts ac[2] = {};
  int previous_dc[3] = {};
  for (size_t mcu_row = 0; mcu_row < geometry_.mcu_rows; ++mcu_row) {
    visit_mcu_row(mcu_row, [&](size_t c, const int16_t* block) {
      const size_t slot = geometry_.component[c].table;
      count_block(block, &previous_dc[c], &dc[slot], &ac[slot]);
    });
  }
  for (size_t slot = 0; slot < slots; ++slot) {
    dc_[slot] = optimal_table(dc[slot]);
    ac_[slot] = optimal_table(ac[slot]);
  }
}

bool Encoder::write_scan() {
  const HuffmanCodes dc[2] = {make_codes(dc_[0]), make_codes(dc_[1])};
  const HuffmanCodes ac[2] = {make_codes(ac_[0]), make_codes(ac_[1])};
  int previous_dc[3] = {};
  BitWriter writer;
  const size_t row_bytes = geometry_.mcu_columns * geometry_.blocks_per_mcu() * kMaxBlockBytes;
  for (size_t mcu_row = 0; mcu_row < geometry_.mcu_rows; ++mcu_row) {
    if (!file_.reserve(row_bytes)) return false;
    writer.cursor = file_.end();
    visit_mcu_row(mcu_row, [&](size_t c, const int16_t* block) {
      const size_t slot = geometry_.component[c].table;
      write_block(block, &previous_dc[c], dc[slot], ac[slot], &writer);
    });
    if (mcu_row + 1 == geometry_.mcu_rows) writer.finish();
    file_.set_end(writer.cursor);
  }
  return true;
}

}  // namespace edgejpeg
