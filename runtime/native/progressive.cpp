#include "progressive.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "markers.h"

namespace edgejpeg {
namespace {

constexpr size_t kMaxScans = 5;
constexpr uint32_t kMaxEndOfBlockRun = 0x7FFF;
// More correction bits than this do not wait for the end of a run of blocks without new levels.
constexpr size_t kMaxCorrectionBits = 960;

struct Plan {
  size_t scans;
  ScanHeader scan[kMaxScans];
};

constexpr Plan kGrayPlan = {3, {{0, 1, 0, 0, 0, 0}, {0, 1, 1, 63, 0, 1}, {0, 1, 1, 63, 1, 0}}};
constexpr Plan kColourPlan = {
    5, {{0, 3, 0, 0, 0, 0}, {0, 1, 1, 63, 0, 1}, {1, 1, 1, 63, 0, 0}, {2, 1, 1, 63, 0, 0}, {0, 1, 1, 63, 1, 0}}};

uint32_t bit_length(uint32_t value) { return value == 0 ? 0 : 32 - static_cast<uint32_t>(__builtin_clz(value)); }

// A walk over a scan gives its symbols and bits to one of these two: first to be counted, then to be written.
class Counter {
 public:
  explicit Counter(SymbolCounts* counts) : counts_(counts) {}
  void symbol(size_t slot, uint32_t symbol) { ++counts_[slot].count[symbol]; }
  void bits(uint32_t, uint32_t) {}

 private:
  SymbolCounts* counts_;  // by slot
};

class Writer {
 public:
  Writer(const HuffmanTable* tables, const bool* used, uint8_t* out) : out_(out) {
    for (size_t slot = 0; slot < 2; ++slot) {
      if (used[slot]) make_code_words(tables[slot], 256, words_[slot]);
    }
  }
  void symbol(size_t slot, uint32_t symbol) { bits(words_[slot][symbol] >> 8, words_[slot][symbol] & 0xFF); }
  // At most 16 at a time.
  void bits(uint32_t value, uint32_t count) {
    held_ = held_ << count | value;
    held_count_ += count;
    if (held_count_ < 32) return;
    held_count_ -= 32;
    const uint32_t word = __builtin_bswap32(static_cast<uint32_t>(held_ >> held_count_));
    std::memcpy(out_, &word, sizeof(word));
    out_ += sizeof(word);
  }
  // Fills the last byte with ones. Returns the end.
  uint8_t* finish() {
    if (held_count_ % 8 != 0) bits(0xFFu >> held_count_ % 8, 8 - held_count_ % 8);
    while (held_count_ > 0) {
      held_count_ -= 8;
      *out_++ = static_cast<uint8_t>(held_ >> held_count_);
    }
    return out_;
  }

 private:
  uint32_t words_[2][256];
  uint64_t held_ = 0;
  uint32_t held_count_ = 0;
  uint8_t* out_;
};

int level_at(const Block& block, const int16_t* wide, size_t k) { return block.wide != 0 ? wide[k] : block.levels[k]; }

// Calls body(block, wide) for the real blocks of a component, row by row: a scan of one component has no dummies.
template <typename Body>
void for_blocks(const Geometry& geometry, const McuRow* rows, size_t component, Body body) {
  for (size_t mcu_row = 0; mcu_row < geometry.mcu_rows; ++mcu_row) {
    const McuRow::Plane& plane = rows[mcu_row].plane[component];
    for (size_t line = 0; line < plane.lines; ++line) {
      for (size_t column = 0; column < plane.columns; ++column) {
        body(plane.blocks[line][column], plane.levels[line] + column * kBlockSize);
      }
    }
  }
}

// A value in ones' complement where it is negative [F.1.2.1].
template <typename Sink>
void put_value(int value, uint32_t size, Sink* sink) {
  sink->bits(static_cast<uint32_t>(value + (value >> 31)) & ((1u << size) - 1), size);
}

// All components, interleaved: what a baseline scan has without its AC [G.1.2.1].
template <typename Sink>
void walk_dc(const Geometry& geometry, const McuRow* rows, Sink* sink) {
  int previous[3] = {};
  for (size_t mcu_row = 0; mcu_row < geometry.mcu_rows; ++mcu_row) {
    for (size_t mcu = 0; mcu < geometry.mcu_columns; ++mcu) {
      for (size_t c = 0; c < geometry.components; ++c) {
        const McuRow::Plane& plane = rows[mcu_row].plane[c];
        for (size_t i = 0; i < plane.vertical * plane.horizontal; ++i) {
          const size_t line = i / plane.horizontal;
          const size_t column = mcu * plane.horizontal + i % plane.horizontal;
          const bool real = line < plane.lines && column < plane.columns;
          const int dc = real ? plane.blocks[line][column].dc : previous[c];
          const int difference = dc - previous[c];
          previous[c] = dc;
          const uint32_t size = bit_length(static_cast<uint32_t>(std::abs(difference)));
          sink->symbol(c == 0 ? 0 : 1, size);
          put_value(difference, size, sink);
        }
      }
    }
  }
}

// The AC levels of one component. Blocks without a further level are counted, and the run of them is coded with the
// next symbol [G.1.2.2, G.1.2.3].
template <typename Sink>
class AcWalk {
 public:
  AcWalk(const ScanHeader& scan, Sink* sink) : low_(scan.low), slot_(scan.first_component == 0 ? 0 : 1), sink_(sink) {}

  void first(const Block& block, const int16_t* wide) {
    size_t previous = 0;
    for (uint64_t mask = block.mask; mask != 0; mask &= mask - 1) {
      const auto k = static_cast<size_t>(__builtin_ctzll(mask));
      const int level = level_at(block, wide, k);
      const auto magnitude = static_cast<uint32_t>(std::abs(level)) >> low_;
      if (magnitude == 0) continue;
      const size_t run = skip(k - previous - 1);
      previous = k;
      const uint32_t size = bit_length(magnitude);
      sink_->symbol(slot_, static_cast<uint32_t>(run << 4 | size));
      put_value(level < 0 ? -static_cast<int>(magnitude) : static_cast<int>(magnitude), size, sink_);
    }
    if (previous < kBlockSize - 1) end_block();
  }

  // The lowest bit: levels of 1 are new; of the others it is a correction bit, which comes behind the next symbol.
  void refine(const Block& block, const int16_t* wide) {
    uint64_t fresh = 0;
    for (uint64_t mask = block.mask; mask != 0; mask &= mask - 1) {
      const auto k = static_cast<size_t>(__builtin_ctzll(mask));
      if (std::abs(level_at(block, wide, k)) == 1) fresh |= uint64_t{1} << k;
    }
    const size_t last = fresh == 0 ? 0 : 63 - static_cast<size_t>(__builtin_clzll(fresh));
    size_t zeros = 0;
    size_t corrections = 0;  // of this block, behind those that wait already
    size_t previous = 0;
    for (uint64_t mask = block.mask; mask != 0; mask &= mask - 1) {
      const auto k = static_cast<size_t>(__builtin_ctzll(mask));
      zeros += k - previous - 1;
      previous = k;
      for (; zeros > 15 && k <= last; zeros -= 16) {
        put_fresh(kSixteenZeros, &corrections);
      }
      const int level = level_at(block, wide, k);
      if ((fresh >> k & 1) == 0) {
        correction_[waiting_ + corrections++] = static_cast<uint8_t>(std::abs(level) & 1);
        continue;
      }
      put_fresh(static_cast<uint32_t>(zeros << 4 | 1), &corrections, level);
      zeros = 0;
    }
    zeros += kBlockSize - 1 - previous;
    if (zeros == 0 && corrections == 0) return;
    waiting_ += corrections;
    end_block();
    if (waiting_ > kMaxCorrectionBits - kBlockSize) put_run();
  }

  // A run that is still open.
  void finish() { put_run(); }

 private:
  // A symbol of the refining scan, the sign of a new level, and the block's correction bits so far.
  void put_fresh(uint32_t symbol, size_t* corrections, int level = 0) {
    const size_t first = waiting_;
    put_run();
    sink_->symbol(slot_, symbol);
    if (level != 0) sink_->bits(level > 0, 1);
    put_corrections(first, *corrections);
    *corrections = 0;
  }

  size_t skip(size_t zeros) {
    put_run();
    for (; zeros > 15; zeros -= 16) sink_->symbol(slot_, kSixteenZeros);
    return zeros;
  }

  void end_block() {
    if (++run_ == kMaxEndOfBlockRun) put_run();
  }

  // The symbol of a run, and all correction bits that waited for it.
  void put_run() {
    if (run_ == 0) return;
    const uint32_t size = bit_length(run_) - 1;
    sink_->symbol(slot_, size << 4);
    sink_->bits(run_ & ((1u << size) - 1), size);
    run_ = 0;
    const size_t count = waiting_;
    waiting_ = 0;
    put_corrections(0, count);
  }

  void put_corrections(size_t first, size_t count) {
    for (size_t i = first; i < first + count; ++i) sink_->bits(correction_[i], 1);
  }

  uint32_t low_;
  size_t slot_;
  Sink* sink_;
  uint32_t run_ = 0;
  size_t waiting_ = 0;
  uint8_t correction_[kMaxCorrectionBits + kBlockSize];
};

template <typename Sink>
void walk_scan(const Geometry& geometry, const McuRow* rows, const ScanHeader& scan, Sink* sink) {
  if (scan.first == 0) return walk_dc(geometry, rows, sink);
  AcWalk<Sink> walk(scan, sink);
  for_blocks(geometry, rows, scan.first_component, [&](const Block& block, const int16_t* wide) {
    if (scan.high == 0) {
      walk.first(block, wide);
    } else {
      walk.refine(block, wide);
    }
  });
  walk.finish();
}

struct ScanData {
  SymbolCounts counts[2];
  HuffmanTable tables[2];
  bool used[2];
  Buffer<uint8_t> bytes;  // the first one is before those of the scan
  size_t size;
};

void code_scan(const Geometry& geometry, const McuRow* rows, const ScanHeader& scan, ScanData* data) {
  std::memset(data->counts, 0, sizeof(data->counts));
  Counter counter(data->counts);
  walk_scan(geometry, rows, scan, &counter);
  for (size_t slot = 0; slot < 2; ++slot) {
    const uint64_t* const count = data->counts[slot].count;
    data->used[slot] = std::any_of(count, count + 256, [](uint64_t value) { return value > 0; });
    if (data->used[slot]) data->tables[slot] = optimal_table(data->counts[slot]);
  }
  uint8_t* const begin = data->bytes.data() + 1;
  Writer writer(data->tables, data->used, begin);
  walk_scan(geometry, rows, scan, &writer);
  uint8_t* const end = writer.finish();
  std::memset(end, 0, kBitSlack);
  data->size = static_cast<size_t>(end - begin);
}

}  // namespace

bool write_progressive_scans(const Geometry& geometry, const Backend& backend, const McuRow* rows, ThreadPool* pool,
                             ByteStream* file) {
  const Plan& plan = geometry.components == 1 ? kGrayPlan : kColourPlan;
  ScanData data[kMaxScans];
  for (size_t i = 0; i < plan.scans; ++i) {
    // A DC has at most 27 bits, the AC of a block 63 times 26, and 30 for the run before it.
    const bool dc = plan.scan[i].first == 0;
    const size_t blocks = dc ? geometry.mcu_rows * geometry.mcu_columns * geometry.blocks_per_mcu()
                             : geometry.component[plan.scan[i].first_component].blocks();
    if (!data[i].bytes.reserve(1 + blocks * (dc ? 4 : kMaxBlockBytes) + kBitSlack)) return false;
    *data[i].bytes.data() = 0;
  }
  pool->for_each(plan.scans, [&](size_t i, size_t) { code_scan(geometry, rows, plan.scan[i], data + i); });
  for (size_t i = 0; i < plan.scans; ++i) {
    const HuffmanTable* const tables[2] = {data[i].used[0] ? &data[i].tables[0] : nullptr,
                                           data[i].used[1] ? &data[i].tables[1] : nullptr};
    if (!write_scan_header(plan.scan[i], tables, file)) return false;
    if (!file->reserve(2 * data[i].size + kBitSlack)) return false;
    file->set_end(backend.append(data[i].bytes.data() + 1, data[i].size, 0, file->end()));
  }
  return true;
}

}  // namespace edgejpeg
