#include "huffman.h"

#include <algorithm>
#include <functional>

namespace edgejpeg {

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

void SymbolCounts::add(const SymbolCounts& other) {
  for (size_t symbol = 0; symbol < 256; ++symbol) count[symbol] += other.count[symbol];
}

void SymbolCounts::cover(const HuffmanTable& all_symbols, unsigned size) {
  constexpr uint64_t kWeight = 16;
  for (uint64_t& value : count) value *= kWeight;
  for (size_t i = 0; i < all_symbols.size; ++i) {
    const uint8_t symbol = all_symbols.symbols[i];
    if (symbol % 16u <= size) ++count[symbol];
  }
}

HuffmanTable optimal_table(const SymbolCounts& counts) {
  constexpr int kSymbols = 257;  // the last one stands for the reserved code point and gets the longest code
  constexpr int kMaxLength = 16;
  constexpr int kSymbolBits = 9;
  constexpr uint64_t kSymbolMask = (1 << kSymbolBits) - 1;
  // A subtree's weight, and below it its symbol, inverted: of equal weights the larger symbol is the smaller key.
  uint64_t keys[kSymbols];
  size_t subtrees = 0;
  for (int symbol = 0; symbol < kSymbols; ++symbol) {
    const uint64_t weight = symbol < 256 ? counts.count[symbol] : 1;
    if (weight > 0) keys[subtrees++] = weight << kSymbolBits | (kSymbolMask - static_cast<uint64_t>(symbol));
  }
  // The two smallest subtrees become one, which keeps the symbol of the smallest: the other's joins it.
  struct Joined {
    int symbol;
    int other;
  } joined[kSymbols];
  size_t joins = 0;
  std::make_heap(keys, keys + subtrees, std::greater<>());
  for (; subtrees > 1; --subtrees) {
    std::pop_heap(keys, keys + subtrees, std::greater<>());
    std::pop_heap(keys, keys + subtrees - 1, std::greater<>());
    const uint64_t smallest = keys[subtrees - 1];
    const uint64_t second_smallest = keys[subtrees - 2];
    joined[joins++] = {static_cast<int>(kSymbolMask - (smallest & kSymbolMask)),
                       static_cast<int>(kSymbolMask - (second_smallest & kSymbolMask))};
    keys[subtrees - 2] = smallest + (second_smallest & ~kSymbolMask);
    std::push_heap(keys, keys + subtrees - 1, std::greater<>());
  }
  // From the root down: both halves of a subtree are one deeper than it was.
  int length[kSymbols] = {};
  while (joins > 0) {
    const Joined& join = joined[--joins];
    length[join.other] = ++length[join.symbol];
  }

  int count[kSymbols] = {};  // by length; a subtree of 257 symbols is at most 256 deep
  for (int symbol = 0; symbol < kSymbols; ++symbol) ++count[length[symbol]];
  count[0] = 0;
  HuffmanTable table = {};
  size_t place[kSymbols + 1] = {};  // of the next symbol of a length
  for (int bits = 1; bits < kSymbols; ++bits) place[bits + 1] = place[bits] + static_cast<size_t>(count[bits]);
  for (int symbol = 0; symbol < 256; ++symbol) {
    if (length[symbol] == 0) continue;
    table.symbols[place[length[symbol]]++] = static_cast<uint8_t>(symbol);
    ++table.size;
  }
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

  for (int bits = 1; bits <= kMaxLength; ++bits) table.counts[bits - 1] = static_cast<uint8_t>(count[bits]);
  return table;
}

HuffmanTable without_larger(const HuffmanTable& table, unsigned size) {
  HuffmanTable result = table;
  size_t longest = 15;
  while (result.size > 1 && result.symbols[result.size - 1] % 16u > size) {
    while (result.counts[longest] == 0) --longest;
    --result.counts[longest];
    --result.size;
  }
  return result;
}

void make_code_words(const HuffmanTable& table, size_t size, uint32_t* words) {
  for (size_t i = 0; i < size; ++i) words[i] = 0;
  uint32_t code = 0;
  size_t position = 0;
  for (uint32_t length = 1; length <= 16; ++length, code <<= 1) {
    for (unsigned i = 0; i < table.counts[length - 1]; ++i, ++code) {
      words[table.symbols[position++]] = code << 8 | length;
    }
  }
}

namespace {

// The words of a code with all values of `size` bits behind it, for positive values from `values` on and for negative
// ones, in ones' complement, below it.
void put_values(uint32_t code, uint32_t size, uint32_t* values, uint32_t* values_end) {
  const uint32_t first = (code >> 8) << (size + 8) | ((code & 0xFF) + size);
  const uint32_t ones = (1u << size) - 1;
  for (uint32_t value = 1u << (size - 1); value <= ones; ++value) {
    values[value] = first | value << 8;
    *(values_end - value) = first | (ones - value) << 8;
  }
}

}  // namespace

void make_dc_codes(const HuffmanTable& dc, EntropyCodes* codes) {
  uint32_t* const words = codes->words;
  make_code_words(dc, 16, words + kDcCodeIndex);
  uint32_t* const differences = words + kDcIndex + kSmallDc;
  differences[0] = words[kDcCodeIndex];
  for (uint32_t size = 1; size <= 8; ++size) {
    put_values(words[kDcCodeIndex + size], size, differences, differences);
  }
}

void make_ac_codes(const HuffmanTable& ac, EntropyCodes* codes) {
  uint32_t* const words = codes->words;
  make_code_words(ac, 256, words + kAcCodeIndex);
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    for (uint32_t value = 0; value < 1u << bits; ++value) words[bits_index(value, bits)] = value << 8 | bits;
  }
  for (uint32_t run = 0; run < 16; ++run) {
    uint32_t* const levels = words + ac_row(run + 1);
    levels[0] = 0;
    levels[kEndLevel] = words[kAcCodeIndex + kEndOfBlock];
    for (uint32_t size = 1; size <= 7; ++size) {
      put_values(words[kAcCodeIndex + (run << 4 | size)], size, levels, levels + 256);
    }
  }
}

}  // namespace edgejpeg
