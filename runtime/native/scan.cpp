// The last pass: quantization, Huffman tables and the entropy-coded data.
#include <algorithm>
#include <cstring>

#include "encoder.h"

namespace edgejpeg {

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

size_t Encoder::count_symbols(const edgejpeg_image& image, size_t stride) {
  for (size_t i = 0; i < threads_; ++i) {
    std::memset(workers_[i].dc, 0, sizeof(workers_[i].dc));
    std::memset(workers_[i].ac, 0, sizeof(workers_[i].ac));
  }
  const size_t offset = stride / 2;
  const size_t rows = divide_up(geometry_.mcu_rows - offset, stride);
  int end_dc[3] = {};
  for (size_t first = 0; first < rows; first += batch_) {
    const size_t count = std::min(batch_, rows - first);
    const auto mcu_row = [&](size_t i) { return offset + (first + i) * stride; };
    pool_.for_each(count, [&](size_t i, size_t worker) { fill_row(image, mcu_row(i), rows_ + i, workers_ + worker); });
    if (stride == 1) {
      start_dcs(first, count, start_dcs_.data(), end_dc);
    } else {
      std::memset(start_dcs_.data(), 0, count * sizeof(int[3]));
    }
    pool_.for_each(count, [&](size_t i, size_t worker) {
      StageClock clock(stages(workers_ + worker));
      backend_->count(view(mcu_row(i), rows_[i]), start_dcs_.data()[i], workers_[worker].dc, workers_[worker].ac);
      clock.lap(kEntropy);
    });
  }
  rows_are_filled_ = stride == 1 && batch_ == geometry_.mcu_rows;
  for (size_t slot = 0; slot < 2; ++slot) {
    for (size_t i = 1; i < threads_; ++i) {
      workers_[0].dc[slot].add(workers_[i].dc[slot]);
      workers_[0].ac[slot].add(workers_[i].ac[slot]);
    }
  }
  return rows;
}

void Encoder::make_optimal_tables() {
  StageClock clock(stages(workers_));
  for (size_t slot = 0; slot < (geometry_.components == 1 ? 1u : 2u); ++slot) {
    dc_[slot] = optimal_table(workers_[0].dc[slot]);
    ac_[slot] = optimal_table(workers_[0].ac[slot]);
    make_codes(dc_[slot], ac_[slot], &optimal_codes_[slot]);
  }
  clock.lap(kEntropy);
}

// The tables that the file will have are known after the levels. At effort 1 those of rounded levels go first, then
// those of the levels that were weighed by them.
void Encoder::choose_trellis_lengths(const edgejpeg_image& image) {
  weighs_codes_ = false;
  if (quantization_ == EDGEJPEG_ROUND) return;
  for (size_t c = 0; c < geometry_.components; ++c) set_trellis(c);
  if (effort_ == 0) {
    set_trellis_lengths(standard_codes_);
    weighs_codes_ = true;
    return;
  }
  constexpr size_t kBlocks = 2048;
  constexpr size_t kMaxStride = 16;
  for (int round = 0; round < 2; ++round) {
    count_symbols(image, sampling_stride(kBlocks, kMaxStride));
    make_optimal_tables();
    set_trellis_lengths(optimal_codes_);
    weighs_codes_ = true;
  }
}

void Encoder::choose_huffman_tables(const edgejpeg_image& image) {
  rows_are_filled_ = false;
  for (size_t slot = 0; slot < (geometry_.components == 1 ? 1u : 2u) && effort_ == 0; ++slot) {
    dc_[slot] = kStandardDc[slot];
    ac_[slot] = kStandardAc[slot];
  }
  choose_trellis_lengths(image);
  if (effort_ == 0) return;
  count_symbols(image, 1);
  make_optimal_tables();
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
    pool_.for_each(count, [&](size_t i, size_t worker) {
      StageClock clock(stages(workers_ + worker));
      rows_[i].bits =
          backend_->write(view(first + i, rows_[i]), start_dcs_.data()[i], codes, rows_[i].bytes.data() + 1);
      clock.lap(kEntropy);
    });
    StageClock clock(stages(workers_));
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
    clock.lap(kEntropy);
  }
  if (left_over_bits == 0) return true;
  if (!file_.reserve(2)) return false;
  const auto last = static_cast<uint8_t>(left_over << (8 - left_over_bits) | 0xFF >> left_over_bits);
  file_.put(last);
  if (last == 0xFF) file_.put(0);
  return true;
}

}  // namespace edgejpeg
