// Which Huffman tables a frame gets: stored ones or its own, from a sample of its rows or from all of them.
#include <algorithm>
#include <cstring>

#include "encoder.h"

namespace edgejpeg {
namespace {

// lengths[symbol][choice] of a table, 0 for symbols that it does not have.
template <size_t choices>
void fill_lengths(const HuffmanTable& table, size_t choice, uint8_t (*lengths)[choices]) {
  const uint8_t* symbol = table.symbols;
  for (uint8_t length = 1; length <= 16; ++length) {
    for (unsigned i = 0; i < table.counts[length - 1]; ++i) lengths[*symbol++][choice] = length;
  }
}

// The choice that codes the counted symbols in the fewest bits; of equal ones the first.
template <size_t symbols, size_t choices>
size_t cheapest(const uint8_t (&lengths)[symbols][choices], const SymbolCounts& counts) {
  uint64_t bits[choices] = {};
  for (size_t symbol = 0; symbol < symbols; ++symbol) {
    const uint64_t count = counts.count[symbol];
    if (count == 0) continue;
    for (size_t i = 0; i < choices; ++i) bits[i] += count * lengths[symbol][i];
  }
  return static_cast<size_t>(std::min_element(bits, bits + choices) - bits);
}

unsigned bit_length(int value) { return 32 - static_cast<unsigned>(__builtin_clz(static_cast<unsigned>(value))); }

// The most value bits that levels can have: coefficients are within 1024, and a little more by rounding.
unsigned largest_ac_size(const uint8_t* table) {
  return bit_length((2 * 1025 / *std::min_element(table + 1, table + kBlockSize) + 1) / 2);
}
unsigned largest_dc_size(const uint8_t* table) { return bit_length(2 * 1025 / table[0] + 1); }

}  // namespace

void StoredLengths::fill() {
  std::memset(this, 0, sizeof(*this));
  for (size_t slot = 0; slot < 2; ++slot) {
    for (size_t i = 0; i < kDcChoices; ++i) fill_lengths(stored_dc(slot, i), i, dc[slot]);
    for (size_t i = 0; i < kAcChoices; ++i) fill_lengths(stored_ac(slot, i), i, ac[slot]);
  }
}

void Encoder::choose_huffman_tables(const edgejpeg_image& image) {
  rows_are_filled_ = false;
  choose_trellis_lengths(image);
  if (source_ == HuffmanSource::kPerScan) return;
  if (source_ != HuffmanSource::kCounted) return choose_from_sample(image);
  clear_counts();
  count_all(image);
  add_counts();
  make_tables(false);
}

void Encoder::choose_from_sample(const edgejpeg_image& image) {
  clear_counts();
  count_sample(image);
  add_counts();
  make_tables(source_ == HuffmanSource::kSampled);
}

void Encoder::make_tables(bool from_sample) {
  StageClock clock(stages(workers_));
  if (source_ == HuffmanSource::kStandard || source_ == HuffmanSource::kStored) {
    choose_stored_tables();
  } else {
    make_optimal_tables(from_sample);
  }
  clock.lap(kEntropy);
}

void Encoder::clear_counts() {
  for (size_t i = 0; i < threads_; ++i) {
    std::memset(workers_[i].dc, 0, sizeof(workers_[i].dc));
    std::memset(workers_[i].ac, 0, sizeof(workers_[i].ac));
  }
}

void Encoder::add_counts() {
  for (size_t slot = 0; slot < 2; ++slot) {
    for (size_t i = 1; i < threads_; ++i) {
      workers_[0].dc[slot].add(workers_[i].dc[slot]);
      workers_[0].ac[slot].add(workers_[i].ac[slot]);
    }
  }
}

// The tables that the file will have are known after the levels. Those of rounded levels go first; where they are made
// for the frame, those of the levels that were weighed by them follow.
void Encoder::choose_trellis_lengths(const edgejpeg_image& image) {
  weighs_codes_ = false;
  if (quantization_ == EDGEJPEG_ROUND) return;
  constexpr size_t kBlocks = 2048;
  constexpr size_t kMaxStride = 16;
  const bool is_stored = source_ == HuffmanSource::kStandard || source_ == HuffmanSource::kStored;
  for (size_t c = 0; c < geometry_.components; ++c) set_trellis(c);
  for (int round = 0; round < (is_stored ? 1 : 2); ++round) {
    if (is_stored) {
      choose_from_sample(image);
    } else {
      count_symbols(image, sampling_stride(kBlocks, kMaxStride));
      make_optimal_tables(false);
    }
    set_trellis_lengths();
    weighs_codes_ = true;
  }
}

size_t Encoder::count_symbols(const edgejpeg_image& image, size_t stride) {
  clear_counts();
  const size_t offset = stride / 2;
  const size_t rows = divide_up(geometry_.mcu_rows - offset, stride);
  for (size_t first = 0; first < rows; first += batch_) {
    const size_t count = std::min(batch_, rows - first);
    const auto mcu_row = [&](size_t i) { return offset + (first + i) * stride; };
    pool_.for_each(count, [&](size_t i, size_t worker) { fill_row(image, mcu_row(i), rows_ + i, workers_ + worker); });
    pool_.for_each(count, [&](size_t i, size_t worker) {
      StageClock clock(stages(workers_ + worker));
      count_alone(mcu_row(i), rows_[i], workers_ + worker);
      clock.lap(kEntropy);
    });
  }
  add_counts();
  return rows;
}

// The rows are kept.
void Encoder::count_sample(const edgejpeg_image& image) {
  pool_.for_each(samples_, [&](size_t i, size_t worker) {
    Row& row = rows_[batch_ + i];
    fill_row(image, sampled_row(i), &row, workers_ + worker);
    StageClock clock(stages(workers_ + worker));
    count_alone(sampled_row(i), row, workers_ + worker);
    clock.lap(kEntropy);
  });
}

void Encoder::count_alone(size_t mcu_row, const Row& row, Worker* worker) const {
  int dcs[3] = {};
  for (size_t c = 0; c < geometry_.components; ++c) dcs[c] = row.blocks.data()[block_offset(c, 0)].dc;
  backend_->count(view(mcu_row, row), dcs, worker->dc, worker->ac, nullptr);
}

void Encoder::count_all(const edgejpeg_image& image) {
  int end_dc[3] = {};
  for (size_t first = 0; first < geometry_.mcu_rows; first += batch_) {
    const size_t count = std::min(batch_, geometry_.mcu_rows - first);
    fill_batch(image, first, count);
    start_dcs(first, count, start_dcs_.data(), end_dc);
    pool_.for_each(count, [&](size_t i, size_t worker) {
      StageClock clock(stages(workers_ + worker));
      Row& row = rows_[i];
      row.counted = {row.tokens.data(), row.tokens.capacity(), 0};
      backend_->count(view(first + i, row), start_dcs_.data()[i], workers_[worker].dc, workers_[worker].ac,
                      &row.counted);
      clock.lap(kEntropy);
    });
  }
  rows_are_filled_ = batch_ == geometry_.mcu_rows;
}

void Encoder::choose_stored_tables() {
  const bool standard = source_ == HuffmanSource::kStandard;
  const size_t slots = geometry_.components == 1 ? 1 : 2;
  for (size_t slot = 0; slot < slots; ++slot) {
    const size_t dc_index = standard ? 0 : cheapest(stored_lengths_.dc[slot], workers_[0].dc[slot]);
    const size_t ac_index = standard ? 0 : cheapest(stored_lengths_.ac[slot], workers_[0].ac[slot]);
    EntropyCodes& codes = stored_codes_[slot][ac_index];
    dc_[slot] = stored_dc(slot, dc_index);
    ac_[slot] = stored_ac(slot, ac_index);
    if (!has_stored_codes_[slot][ac_index]) make_ac_codes(ac_[slot], &codes);
    has_stored_codes_[slot][ac_index] = true;
    make_dc_codes(dc_[slot], &codes);
    codes_[slot] = &codes;
    if (standard) continue;
    dc_[slot] = without_larger(dc_[slot], largest_dc_size(used_[slot]));
    ac_[slot] = without_larger(ac_[slot], largest_ac_size(used_[slot]));
  }
}

void Encoder::make_optimal_tables(bool from_sample) {
  const size_t slots = geometry_.components == 1 ? 1 : 2;
  for (size_t slot = 0; slot < slots; ++slot) {
    SymbolCounts& dc = workers_[0].dc[slot];
    SymbolCounts& ac = workers_[0].ac[slot];
    if (from_sample) {
      dc.cover(kStandardDc[slot], largest_dc_size(used_[slot]));
      ac.cover(kStandardAc[slot], largest_ac_size(used_[slot]));
    }
    dc_[slot] = optimal_table(dc);
    ac_[slot] = optimal_table(ac);
    make_dc_codes(dc_[slot], &optimal_codes_[slot]);
    make_ac_codes(ac_[slot], &optimal_codes_[slot]);
    codes_[slot] = &optimal_codes_[slot];
  }
}

}  // namespace edgejpeg
