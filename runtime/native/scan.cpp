// The last pass: quantization, Huffman tables and the entropy-coded data.
#include <algorithm>
#include <cstring>

#include "encoder.h"

namespace edgejpeg {

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
        backend_->quantise_exactly(samples, stride, component.columns, used_[component.table], blocks, levels);
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
