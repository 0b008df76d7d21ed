/* libedgejpeg: baseline JPEG whose quantization tables are designed for a neural network.
 *
 * A C interface: usable from C and C++, and loaded by ctypes. Every call that can fail returns a status; on anything
 * but EDGEJPEG_OK, edgejpeg_last_error() has one line that says why. Nothing is thrown and nothing is printed.
 *
 * An encoder belongs to one thread at a time. Different encoders may run in parallel.
 *
 *     edgejpeg_encoder* encoder = NULL;
 *     edgejpeg_options options = {.subsampling = EDGEJPEG_420, .threads = 1};
 *     edgejpeg_image image = {.pixels = pixels, .width = width, .height = height,
 *                             .row_stride = 3 * width, .pixel_stride = 3, .format = EDGEJPEG_BGR};
 *     const uint8_t* jpeg;
 *     size_t size;
 *     if (edgejpeg_encoder_create(&options, &encoder) || edgejpeg_encoder_set_tables(encoder, luma, chroma) ||
 *         edgejpeg_encoder_encode(encoder, &image, &jpeg, &size)) {
 *       fprintf(stderr, "%s\n", edgejpeg_last_error());
 *     }
 *     edgejpeg_encoder_destroy(encoder);
 */
#ifndef EDGEJPEG_H
#define EDGEJPEG_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EDGEJPEG_API __attribute__((visibility("default")))
#else
#define EDGEJPEG_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edgejpeg_status {
  EDGEJPEG_OK = 0,
  EDGEJPEG_INVALID_ARGUMENT = 1,
  EDGEJPEG_OUT_OF_MEMORY = 2,
  EDGEJPEG_NOT_READY = 3,        /* no tables and no design given yet, or nothing encoded yet */
  EDGEJPEG_BUFFER_TOO_SMALL = 4, /* *size says how many bytes are needed */
  EDGEJPEG_BUDGET_NOT_MET = 5    /* *size says the size of the smallest possible file */
} edgejpeg_status;

typedef enum edgejpeg_subsampling {
  EDGEJPEG_444 = 0,
  EDGEJPEG_422 = 1,
  EDGEJPEG_420 = 2,
  EDGEJPEG_GRAY = 3 /* one component; colour frames give their luma */
} edgejpeg_subsampling;

typedef enum edgejpeg_pixel_format {
  EDGEJPEG_RGB = 0,
  EDGEJPEG_BGR = 1,
  EDGEJPEG_LUMA = 2, /* one sample per pixel: always coded as one component */
  EDGEJPEG_NV12 = 3, /* a plane of Y; one of Cb and Cr in turn, for 2 x 2 pixels each. Even width and height */
  EDGEJPEG_NV21 = 4, /* the same with Cr before Cb */
  EDGEJPEG_I420 = 5, /* planes of Y, Cb and Cr, the latter for 2 x 2 pixels. Even width and height */
  EDGEJPEG_YUYV = 6  /* Y Cb Y Cr for 2 x 1 pixels. Even width */
} edgejpeg_pixel_format;

/* What Y, Cb and Cr from a camera or a video mean (BT.601's matrix, as in JFIF). */
typedef enum edgejpeg_range {
  EDGEJPEG_LIMITED_RANGE = 0, /* Y 16..235, Cb and Cr 16..240, as cameras and video have it: widened to JPEG's */
  EDGEJPEG_FULL_RANGE = 1     /* 0..255, as JPEG has it */
} edgejpeg_range;

typedef enum edgejpeg_container {
  EDGEJPEG_JFIF = 0,
  EDGEJPEG_LEAN = 1 /* no APP0, one DQT and one DHT segment: 34 bytes less (22 with one component) */
} edgejpeg_container;

#define EDGEJPEG_MAX_SIZE 65535
#define EDGEJPEG_MAX_THREADS 256
#define EDGEJPEG_MAX_COMMENT 65533
#define EDGEJPEG_MAX_LEVELS 16
#define EDGEJPEG_MAX_RESTART_INTERVAL 65535 /* MCUs: restart_rows times those of a row */

/* How a coefficient becomes a level. TRIM and TRELLIS weigh the error by the design's sensitivities, or by 1 / q^2 with
 * given tables, against the length of the codes: TRIM drops the last levels of a block, TRELLIS any. Networks notice
 * zeroing more than the weighted error says. */
typedef enum edgejpeg_quantization {
  EDGEJPEG_ROUND = 0, /* or the dead zone */
  EDGEJPEG_TRIM = 1,
  EDGEJPEG_TRELLIS = 2
} edgejpeg_quantization;

/* All zero but `threads` is a plain encoder. Fields are int32_t, so that a value outside an enumeration is refused and
 * not undefined. A large frame is one of 1280 x 720 pixels or more with at least 32 rows of MCUs. */
typedef struct edgejpeg_options {
  int32_t subsampling;        /* edgejpeg_subsampling */
  int32_t effort;             /* 0: stored Huffman tables, chosen per frame; 1: optimal ones for every frame */
  int32_t threads;            /* 1..EDGEJPEG_MAX_THREADS; the bytes do not depend on it */
  int32_t standard_huffman;   /* 1: at effort 0 always the Huffman tables of ITU-T T.81 Annex K */
  int32_t exact_huffman;      /* at effort 1, 1: every block is counted; 0: of large frames a sample of the rows */
  int32_t sampled_statistics; /* 1: of large frames, every 4th row of MCUs alone is measured for the design */
  int32_t container;          /* edgejpeg_container */
  int32_t progressive;        /* 1: a progressive file, always with optimal Huffman tables; it decodes to the same */
  int32_t restart_rows;       /* rows of MCUs from a restart marker to the next; 0: none. Not with progressive */
  int32_t orientation;        /* the EXIF orientation, 1..8; 0: no EXIF */
  int32_t quantization;       /* edgejpeg_quantization */
  double trellis_weight; /* error per bit that TRIM and TRELLIS accept, in units of the water level, or of the noise of
                            rounding, q^2 / 12, with given tables; 0: the default of 1.5 */
  int32_t keep_statistics; /* 1: statistics and coefficients are kept with given tables too */
  int32_t timing;          /* 1: the time of every stage is taken */
  int32_t comment_control; /* 1: " d=...", " scale=..." or " level=..." ends a comment, if there is one */
} edgejpeg_options;

/* Rows may lie in any order and distance, and so may pixels of RGB, BGR and LUMA, if no sample lies in another: strides
 * are negative where an image is mirrored, and zero only where there is nothing to step over. Nothing is read but
 * samples. Packed RGB and BGR, and RGBx and BGRx, which have a pixel_stride of 4, are read where they lie; pixels that
 * are further apart, or mirrored, are copied row by row. */
typedef struct edgejpeg_image {
  const uint8_t* pixels;    /* the first sample of the first pixel of the first row; of Y where there are planes */
  int32_t width;            /* 1..EDGEJPEG_MAX_SIZE */
  int32_t height;           /* 1..EDGEJPEG_MAX_SIZE */
  ptrdiff_t row_stride;     /* bytes from a row to the next */
  ptrdiff_t pixel_stride;   /* bytes from a pixel to the next: 3 for packed RGB, 4 for RGBx; always 1 for NV12, NV21 and
                               I420, 2 for YUYV */
  int32_t format;           /* edgejpeg_pixel_format; the samples of a pixel are adjacent */
  const uint8_t* chroma[2]; /* NV12, NV21: [0]; I420: Cb, Cr; else not looked at */
  ptrdiff_t chroma_stride[2]; /* bytes from a row of it to the next */
  int32_t range;              /* edgejpeg_range, of the formats with Cb and Cr; else not looked at */
} edgejpeg_image;

/* The DCT statistics that OptS needs, per component (Y, Cb, Cr) and row-major frequency. The coefficients have the
 * scale of a JPEG file (orthonormal DCT, DC = 8 x mean); they are those of the int16 DCT, within .1 of the exact ones.
 */
typedef struct edgejpeg_statistics {
  int32_t components; /* 1 or 3; entries beyond are zero */
  int64_t blocks[3];  /* that were measured */
  double mean[3][64];
  double variance[3][64];      /* population variance */
  double laplace_scale[3][64]; /* mean |C|, as OptS eq. 12 is printed */
} edgejpeg_statistics;

/* One level of a ladder: tables as for edgejpeg_encoder_set_tables, thresholds as for edgejpeg_encoder_set_dead_zone.
 */
typedef struct edgejpeg_level {
  const uint8_t* luma;
  const uint8_t* chroma; /* NULL: one-component files only */
  const double* luma_dead_zone;
  const double* chroma_dead_zone;
  double rate; /* bits per pixel at its design, above 0 and rising: where a search begins */
} edgejpeg_level;

/* How the last frame was encoded. */
typedef struct edgejpeg_result {
  int32_t components;        /* 1 or 3 */
  int32_t level;             /* of the ladder; -1: none */
  int32_t encodes;           /* how often the frame was encoded; more than once for a budget only */
  double luma_water_level;   /* raw, as it was used; 0: given tables */
  double chroma_water_level; /* the same; 0 for one component */
  double scale;              /* of the given tables, 1 without a budget; 0: designed ones */
  size_t bytes;              /* of the file, and of its segments, which add up to it */
  size_t bytes_app;          /* APP0, APP1 */
  size_t bytes_comment;
  size_t bytes_quantization;
  size_t bytes_frame;
  size_t bytes_huffman;
  size_t bytes_scan_headers;
  size_t bytes_entropy_coded;
  size_t bytes_other;      /* SOI, EOI, DRI */
  uint64_t nanoseconds[5]; /* with the option `timing`, over all threads: colour, transform (with statistics), design
                              (with the search), quantization, entropy coding */
} edgejpeg_result;

typedef struct edgejpeg_encoder edgejpeg_encoder;

/* The version of this library, equal to the Python package's. */
EDGEJPEG_API const char* edgejpeg_version(void);

/* Why the last call on this thread that failed did so: one line, never NULL. Valid until the thread's next failure. */
EDGEJPEG_API const char* edgejpeg_last_error(void);

EDGEJPEG_API edgejpeg_status edgejpeg_encoder_create(const edgejpeg_options* options, edgejpeg_encoder** encoder);

/* The instructions that an encoder uses: "scalar", "avx2", "avx512" or "neon". The best of the machine is chosen when
 * the encoder is created, or the one that the environment variable EDGEJPEG_BACKEND names, for tests: the bytes do not
 * depend on it. One more name, "reference", does everything in float64, as the Python reference does: its bytes are
 * that one's, it is slow, and up to .5 % of its levels differ by one from those of the others. NULL for NULL. */
EDGEJPEG_API const char* edgejpeg_encoder_backend(const edgejpeg_encoder* encoder);

/* NULL is allowed. */
EDGEJPEG_API void edgejpeg_encoder_destroy(edgejpeg_encoder* encoder);

/* Fixed tables: 64 values 1..255 each, row-major. chroma may be NULL when only one-component files will be written. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_set_tables(edgejpeg_encoder* encoder, const uint8_t* luma,
                                                         const uint8_t* chroma);

/* Tables designed for every frame by OptS, Algorithm 1 and 2 (Zheng, Salamah, Ye, Yang, "JPEG compliant compression
 * for DNN vision", ICIP 2023).
 *   sensitivity          3 x 64 doubles (Y, Cb, Cr; row-major): the raw s_i of eq. 9, finite, not negative
 *   luma_water_level,
 *   chroma_water_level   raw d > 0. A profile's normalised d is d_raw = d * 10 * max(sensitivity of Y).
 *   q_max                the largest step, 1..255 */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_set_design(edgejpeg_encoder* encoder, const double* sensitivity,
                                                         double luma_water_level, double chroma_water_level,
                                                         int32_t q_max);

/* Thresholds .5..1 in steps q, 64 each, row-major: a coefficient with |C| < t q becomes 0, others are rounded; .5 is
 * plain rounding. For the tables or the design that the encoder has or will have; a ladder has its own. NULL: .5. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_set_dead_zone(edgejpeg_encoder* encoder, const double* luma,
                                                            const double* chroma);

/* 1 to EDGEJPEG_MAX_LEVELS levels in the order of rising rates, copied, and the one to take when nothing else is asked
 * for. It takes back edgejpeg_encoder_set_slope. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_set_ladder(edgejpeg_encoder* encoder, const edgejpeg_level* levels,
                                                         int32_t count, int32_t level);

/* The level of all following frames; with a budget, the highest one. It takes back edgejpeg_encoder_set_slope. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_set_level(edgejpeg_encoder* encoder, int32_t level);

/* For every following frame the level at which one more costs `slope` bytes, 0 or more, on the frame's own curve: the
 * one that minimises size - slope * level. The curve is found by counting the codes, in a sample of the rows of large
 * frames. With a budget, it is the highest level. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_set_slope(edgejpeg_encoder* encoder, double slope);

/* No following file is larger: the water level of a design, the scale of given tables or the level of a ladder (the
 * highest that fits) is found for every frame. 0 and 0: no budget; with both, the smaller one counts. Where no table
 * meets it, edgejpeg_encoder_encode returns EDGEJPEG_BUDGET_NOT_MET. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_set_budget(edgejpeg_encoder* encoder, size_t max_bytes,
                                                         double max_bits_per_pixel);

/* A comment for every following file; size 0 means none. The text is copied. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_set_comment(edgejpeg_encoder* encoder, const char* text, size_t size);

/* Encode one frame. The bytes belong to the encoder and stay valid until its next call of encode or destroy. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_encode(edgejpeg_encoder* encoder, const edgejpeg_image* image,
                                                     const uint8_t** data, size_t* size);

/* The same into the caller's memory, which is not written to unless the whole file fits, and must not overlap the
 * image's. EDGEJPEG_BUFFER_TOO_SMALL: *size is the size of the file. out may be NULL where capacity is 0. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_encode_to(edgejpeg_encoder* encoder, const edgejpeg_image* image,
                                                        uint8_t* out, size_t capacity, size_t* size);

/* The tables of the last frame, 64 values each, row-major. For a one-component file chroma is filled with zeros. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_tables(const edgejpeg_encoder* encoder, uint8_t* luma, uint8_t* chroma);

/* The statistics of the last frame. With given tables only a budget, TRIM, TRELLIS and the option `keep_statistics`
 * have them made: else EDGEJPEG_NOT_READY. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_statistics(const edgejpeg_encoder* encoder,
                                                         edgejpeg_statistics* statistics);

EDGEJPEG_API edgejpeg_status edgejpeg_encoder_result(const edgejpeg_encoder* encoder, edgejpeg_result* result);

/* The sensitivity-weighted error of the last frame by component: the sum of s (C - q K)^2 over its blocks [OptS eq.
 * 10], with the coefficients C of the encoder's DCT and the levels K in the file; s = 1 where the encoder has no
 * sensitivities. Where there are no statistics, EDGEJPEG_NOT_READY. */
EDGEJPEG_API edgejpeg_status edgejpeg_encoder_swe(edgejpeg_encoder* encoder, double swe[3]);

#ifdef __cplusplus
}
#endif

#endif /* EDGEJPEG_H */
