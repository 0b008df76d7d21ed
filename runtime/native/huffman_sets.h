// Huffman tables trained on natural images, from which a frame's are chosen at effort 0.
#ifndef EDGEJPEG_HUFFMAN_SETS_H_
#define EDGEJPEG_HUFFMAN_SETS_H_

#include <cstddef>

#include "huffman.h"

namespace edgejpeg {

// How many tables there are to choose from, Annex K's at index 0 included.
constexpr size_t kDcChoices = 4;
constexpr size_t kAcChoices = 12;

// By slot (0 luma, 1 chroma), in the order of rising rates. Every table has a code for every symbol of a baseline file.
// benchmarks/huffman_sets.py makes them.
extern const HuffmanTable kTrainedDc[2][kDcChoices - 1];
extern const HuffmanTable kTrainedAc[2][kAcChoices - 1];

inline const HuffmanTable& stored_dc(size_t slot, size_t index) {
  return index == 0 ? kStandardDc[slot] : kTrainedDc[slot][index - 1];
}

inline const HuffmanTable& stored_ac(size_t slot, size_t index) {
  return index == 0 ? kStandardAc[slot] : kTrainedAc[slot][index - 1];
}

// The code length of every symbol in all choices, side by side.
struct StoredLengths {
  uint8_t dc[2][16][kDcChoices];
  uint8_t ac[2][256][kAcChoices];

  void fill();
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_HUFFMAN_SETS_H_
