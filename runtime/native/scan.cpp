// The last pass: quantization and the entropy-coded data.
#include <algorithm>
#include <cstring>

#include "encoder.h"
#include "markers.h"
#include "progressive.h"

namespace edgejpeg {

// Quantises a row of MCUs, from the stored coefficients or from the frame.
void Encoder::fill_row(const edgejpeg_image& image, size_t mcu_row, Row* row, Worker* worker) const {
  const bool stored = is_measured(mcu_row) && !exact_;
  if (!stored) convert_mcu_row(image, geometry_, *backend_, mcu_row, mcu_row + threads_, &worker->strip);
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
        const size_t stored_row = mcu_row / measure_step_ * component.vertical + line;
        const int16_t* const coefficients = coefficients_[c].data() + stored_row * count * kPairSize;
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

void Encoder::start_dcs(size_t first, size_t count, int (*dcs)[3], int* end_dc) {
  for (size_t i = 0; i < count; ++i) {
    if (is_restart(first + i)) std::fill_n(end_dc, 3, 0);
    std::memcpy(dcs[i], end_dc, sizeof(dcs[i]));
    const Row& row = row_of(first, i);
    for (size_t c = 0; c < geometry_.components; ++c) {
      // In scan order the last real block of a row of MCUs is the last one of its last real line.
      const Component& component = geometry_.component[c];
      const size_t lines = std::min(component.vertical, component.rows - (first + i) * component.vertical);
      end_dc[c] = row.blocks.data()[block_offset(c, lines - 1) + component.columns - 1].dc;
    }
  }
}

void Encoder::fill_batch(const edgejpeg_image& image, size_t first, size_t count) {
  pool_.for_each(count, [&](size_t i, size_t worker) {
    Row& row = row_of(first, i);
    if (&row == rows_ + i) fill_row(image, first + i, &row, workers_ + worker);
  });
}

namespace {

// The bits behind the last whole byte of an entropy-coded segment, in the low places.
struct LeftOver {
  uint8_t bits = 0;
  unsigned count = 0;

  // Fills the byte with ones [F.1.2.3].
  void finish(ByteStream* stream) {
    if (count > 0) {
      const auto last = static_cast<uint8_t>(bits << (8 - count) | 0xFF >> count);
      stream->put(last);
      if (last == 0xFF) stream->put(0);
    }
    *this = {};
  }
};

}  // namespace

bool Encoder::write_scan(const edgejpeg_image& image) {
  int end_dc[3] = {};
  LeftOver rest;
  for (size_t first = 0; first < geometry_.mcu_rows; first += batch_) {
    const size_t count = std::min(batch_, geometry_.mcu_rows - first);
    if (!rows_are_filled_) fill_batch(image, first, count);
    start_dcs(first, count, start_dcs_.data(), end_dc);
    pool_.for_each(count, [&](size_t i, size_t) {
      Row& row = row_of(first, i);
      row.bits = backend_->write(view(first + i, row), start_dcs_.data()[i], codes_, row.bytes.data() + 1);
    });
    for (size_t i = 0; i < count; ++i) {
      Row& row = row_of(first, i);
      uint8_t* const bytes = row.bytes.data() + 1;
      if (!file_.reserve(2 * (row.bits / 8 + 1) + 4 + kBitSlack)) return false;
      if (first + i > 0 && is_restart(first + i)) {
        rest.finish(&file_);
        put_restart((first + i) / restart_rows_ - 1, &file_);
      }
      const size_t bits = rest.count + row.bits;
      const size_t whole = bits / 8;
      bytes[-1] = rest.bits;
      file_.set_end(backend_->append(bytes, whole, rest.count, file_.end()));
      // What would be the next byte, its used bits brought down.
      const auto next =
          static_cast<uint8_t>((bytes[static_cast<ptrdiff_t>(whole) - 1] << 8 | bytes[whole]) >> rest.count);
      rest.count = static_cast<unsigned>(bits % 8);
      rest.bits = static_cast<uint8_t>(next >> (8 - rest.count));
    }
  }
  if (!file_.reserve(2)) return false;
  rest.finish(&file_);
  return true;
}

bool Encoder::write_progressive(const edgejpeg_image& image) {
  if (!views_.reserve(geometry_.mcu_rows)) return false;
  fill_batch(image, 0, geometry_.mcu_rows);
  for (size_t i = 0; i < geometry_.mcu_rows; ++i) views_.data()[i] = view(i, rows_[i]);
  return write_progressive_scans(geometry_, *backend_, views_.data(), &pool_, &file_);
}

}  // namespace edgejpeg
