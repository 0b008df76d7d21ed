#include "huffman.h"

#include <cstdlib>

namespace edgejpeg {
namespace {

constexpr uint8_t kEndOfBlock = 0x00;
constexpr uint8_t kSixteenZeros = 0xF0;

// The number of bits of a value's magnitude: its category [F.1.2.1].
inline unsigned category(int value) {
  return value == 0 ? 0 : 32 - static_cast<unsigned>(__builtin_clz(static_cast<unsigned>(std::abs(value))));
}

// Walks the symbols of a block in coding order: dc(size, value), then ac(symbol, size, value) for every symbol.
template <typename Dc, typename Ac>
inline void walk_block(const int16_t* levels, int* previous_dc, Dc dc, Ac ac) {
  if (levels == nullptr) {
    dc(0, 0);
    ac(kEndOfBlock, 0, 0);
    return;
  }
  const int difference = levels[0] - *previous_dc;
  *previous_dc = levels[0];
  dc(category(difference), difference);
  unsigned zeros = 0;
  for (int k = 1; k < 64; ++k) {
    const int level = levels[k];
    if (level == 0) {
      ++zeros;
      continue;
    }
    for (; zeros >= 16; zeros -= 16) ac(kSixteenZeros, 0, 0);
    const unsigned size = category(level);
    ac(static_cast<uint8_t>(zeros << 4 | size), size, level);
    zeros = 0;
  }
  if (zeros > 0) ac(kEndOfBlock, 0, 0);
}

}  // namespace

const HuffmanTable kStandardDc[2] = {
    {{0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 12},
    {{0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 12},
};

const HuffmanTable kStandardAc[2] = {
    {{0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125},
     {0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
      0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72,
      0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37,
      0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
      0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83,
      0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3,
      0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
      0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
      0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa},
     162},
    {{0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119},
     {0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
      0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1,
      0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36,
      0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
      0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a,
      0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a,
      0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba,
      0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
      0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa},
     162},
};

HuffmanTable optimal_table(const SymbolCounts& counts) {
  constexpr int kSymbols = 257;  // the last one stands for the reserved code point and gets the longest code
  constexpr int kMaxLength = 16;
  uint64_t weight[kSymbols];
  int length[kSymbols] = {};
  int next[kSymbols];  // the next symbol of the same subtree
  for (int symbol = 0; symbol < kSymbols; ++symbol) {
    weight[symbol] = symbol < 256 ? counts.count[symbol] : 1;
    next[symbol] = -1;
  }
  while (true) {
    // The two smallest weights; of equal ones the larger symbol is taken first.
    int first = -1;
    int second = -1;
    for (int symbol = 0; symbol < kSymbols; ++symbol) {
      if (weight[symbol] == 0) continue;
      if (first < 0 || weight[symbol] <= weight[first]) {
        second = first;
        first = symbol;
      } else if (second < 0 || weight[symbol] <= weight[second]) {
        second = symbol;
      }
    }
    if (second < 0) break;
    weight[first] += weight[second];
    weight[second] = 0;
    int last = first;
    while (next[last] >= 0) last = next[last];
    next[last] = second;
    for (int symbol = first; symbol >= 0; symbol = next[symbol]) ++length[symbol];
  }

  int count[kSymbols] = {};  // by length; a subtree of 257 symbols is at most 256 deep
  for (int symbol = 0; symbol < kSymbols; ++symbol) ++count[length[symbol]];
  count[0] = 0;
  for (int bits = kSymbols - 1; bits > kMaxLength; --bits) {
    while (count[bits] > 0) {
      int shorter = bits - 2;
      while (count[shorter] == 0) --shorter;
      count[bits] -= 2;
      ++count[bits - 1];
      count[shorter + 1] += 2;
      --count[shorter];
    }
  }
  int longest = kMaxLength;
  while (count[longest] == 0) --longest;
  --count[longest];  // the reserved code point

  HuffmanTable table = {};
  for (int bits = 1; bits <= kMaxLength; ++bits) table.counts[bits - 1] = static_cast<uint8_t>(count[bits]);
  for (int bits = 1; bits < kSymbols; ++bits) {
    for (int symbol = 0; symbol < 256; ++symbol) {
      if (length[symbol] == bits) table.symbols[table.size++] = static_cast<uint8_t>(symbol);
    }
  }
  return table;
}

HuffmanCodes make_codes(const HuffmanTable& table) {
  HuffmanCodes codes = {};
  unsigned code = 0;
  size_t position = 0;
  for (unsigned length = 1; length <= 16; ++length, code <<= 1) {
    for (unsigned i = 0; i < table.counts[length - 1]; ++i, ++code, ++position) {
      const uint8_t symbol = table.symbols[position];
      codes.code[symbol] = static_cast<uint16_t>(code);
      codes.length[symbol] = static_cast<uint8_t>(length);
    }
  }
  return codes;
}

void count_block(const int16_t* levels, int* previous_dc, SymbolCounts* dc, SymbolCounts* ac) {
  walk_block(
      levels, previous_dc, [dc](unsigned size, int) { ++dc->count[size]; },
      [ac](uint8_t symbol, unsigned, int) { ++ac->count[symbol]; });
}

void write_block(const int16_t* levels, int* previous_dc, const HuffmanCodes& dc, const HuffmanCodes& ac,
                 BitWriter* writer) {
  // A code and its value bits go out together: at most 16 + 11. Negative values are in ones' complement.
  const auto put = [writer](const HuffmanCodes& codes, unsigned symbol, unsigned size, int value) {
    const uint32_t bits = static_cast<uint32_t>(value < 0 ? value - 1 : value) & ((1u << size) - 1);
    writer->put(static_cast<uint32_t>(codes.code[symbol]) << size | bits, codes.length[symbol] + size);
  };
  walk_block(
      levels, previous_dc, [&](unsigned size, int value) { put(dc, size, size, value); },
      [&](uint8_t symbol, unsigned size, int value) { put(ac, symbol, size, value); });
}

}  // namespace edgejpeg
