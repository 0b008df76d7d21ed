// Huffman tables, and the coding of one block [ITU-T T.81, F.1.2, annex C, annex K.2, K.3].
#ifndef EDGEJPEG_HUFFMAN_H_
#define EDGEJPEG_HUFFMAN_H_

#include <cstddef>
#include <cstdint>

#include "stream.h"

namespace edgejpeg {

// A table as a DHT segment stores it.
struct HuffmanTable {
  uint8_t counts[16];    // how many codes have length 1..16
  uint8_t symbols[256];  // in order of increasing code length
  size_t size;           // number of symbols
};

// The code of every symbol that a table holds.
struct HuffmanCodes {
  uint16_t code[256];
  uint8_t length[256];
};

struct SymbolCounts {
  uint64_t count[256];
};

// Annex K.3: tables K.3 to K.6.
extern const HuffmanTable kStandardDc[2];
extern const HuffmanTable kStandardAc[2];

// Annex K.2: optimal for the counts, codes at most 16 bits, all ones reserved. Ties as in libjpeg.
HuffmanTable optimal_table(const SymbolCounts& counts);

HuffmanCodes make_codes(const HuffmanTable& table);

// An upper bound of the bytes of one block, stuffing included: DC 16 + 11 bits, 63 AC of 16 + 10 bits, every byte 0xFF
// and followed by 0x00; and what a bit writer can hold from before.
constexpr size_t kMaxBlockBytes = 2 * ((16 + 11 + 63 * (16 + 10) + 7) / 8 + 8);

// `levels`: 64 in zigzag order, or nullptr for a dummy block, which repeats the DC and has no AC.
// `previous_dc` is that of the component, and is updated.
void count_block(const int16_t* levels, int* previous_dc, SymbolCounts* dc, SymbolCounts* ac);
void write_block(const int16_t* levels, int* previous_dc, const HuffmanCodes& dc, const HuffmanCodes& ac,
                 BitWriter* writer);

}  // namespace edgejpeg

#endif  // EDGEJPEG_HUFFMAN_H_
