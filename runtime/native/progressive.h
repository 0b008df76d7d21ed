// The scans of a progressive file [ITU-T T.81, annex G].
#ifndef EDGEJPEG_PROGRESSIVE_H_
#define EDGEJPEG_PROGRESSIVE_H_

#include "backend.h"
#include "geometry.h"
#include "stream.h"
#include "threads.h"

namespace edgejpeg {

// Writes the levels of a frame, all its rows of MCUs from the top down, in five scans (three for one component): all
// DC; luma AC but for the lowest bit; Cb AC; Cr AC; the lowest bit of luma AC. Every scan has optimal Huffman tables of
// its own. On natural images this script is the smallest of the short ones. False when memory is short.
[[nodiscard]] bool write_progressive_scans(const Geometry& geometry, const Backend& backend, const McuRow* rows,
                                           ThreadPool* pool, ByteStream* file);

}  // namespace edgejpeg

#endif  // EDGEJPEG_PROGRESSIVE_H_
