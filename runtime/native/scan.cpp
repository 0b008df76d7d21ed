// The last pass: the entropy-coded data.
#include <algorithm>
#include <cstring>

#include "encoder.h"
#include "markers.h"
#include "progressive.h"

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
    pool_.for_each(count, [&](size_t i, size_t worker) {
      StageClock clock(stages(workers_ + worker));
      Row& row = row_of(first, i);
      uint8_t* const out = row.bytes.data() + 1;
      row.bits = rows_are_filled_ && row.counted.size > 0
                     ? backend_->write_counted(row.counted, codes_, out)
                     : backend_->write(view(first + i, row), start_dcs_.data()[i], codes_, out);
      clock.lap(kEntropy);
    });
    StageClock clock(stages(workers_));
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
    clock.lap(kEntropy);
  }
  if (!file_.reserve(2)) return false;
  rest.finish(&file_);
  return true;
}

bool Encoder::write_progressive(const edgejpeg_image& image) {
  if (!views_.reserve(geometry_.mcu_rows)) return false;
  fill_batch(image, 0, geometry_.mcu_rows);
  for (size_t i = 0; i < geometry_.mcu_rows; ++i) views_.data()[i] = view(i, rows_[i]);
  StageClock clock(stages(workers_));
  const bool written = write_progressive_scans(geometry_, *backend_, views_.data(), &pool_, &file_);
  clock.lap(kEntropy);
  return written;
}

}  // namespace edgejpeg
