// OptS: the quantization tables of one frame from its statistics and a network's sensitivities.
#ifndef EDGEJPEG_DESIGN_H_
#define EDGEJPEG_DESIGN_H_

#include <cstdint>

#include "edgejpeg.h"

namespace edgejpeg {

struct Design {
  double sensitivity[3][64];  // raw s_i of [OptS eq. 9], row-major
  double luma_water_level;    // raw d
  double chroma_water_level;
  int q_max;
};

// The chroma level that goes with another luma level: in the same ratio, and positive and finite whatever the ratio is.
double chroma_level_at(const Design& design, double luma_water_level);

// The distortion of the dead-zone quantiser with step q and centroid reconstruction for a Laplacian source of scale
// lambda [OptS eq. 12-14].
double laplace_distortion(double lambda, double q);

// Algorithm 1 [OptS] on component 0 of the statistics; 64 steps, row-major.
void design_luma(const Design& design, const edgejpeg_statistics& statistics, uint8_t* table);

// Algorithm 2 [OptS] on components 1 and 2.
void design_chroma(const Design& design, const edgejpeg_statistics& statistics, uint8_t* table);

}  // namespace edgejpeg

#endif  // EDGEJPEG_DESIGN_H_
