/* The loops that benchmarks/encoder.py times: libjpeg's API and edgejpeg's, frame after frame, each timed by itself.
 *
 * Built by the script against the jpeglib.h of the system and the libjpeg that is measured, which may be newer: the
 * interface of version 6.2 is the same. */
#include <edgejpeg.h>
#include <stdio.h>
#include <jpeglib.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct frame {
  const uint8_t* pixels; /* packed BGR */
  int32_t width;
  int32_t height;
  const uint8_t* luma; /* tables, row-major */
  const uint8_t* chroma;
} frame;

typedef struct result {
  double milliseconds;
  size_t bytes;
} result;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return 1e3 * (double)time.tv_sec + 1e-6 * (double)time.tv_nsec;
}

static void set_table(j_compress_ptr compress, int slot, const uint8_t* table) {
  unsigned int values[64];
  for (int i = 0; i < 64; ++i) values[i] = table[i];
  jpeg_add_quant_table(compress, slot, values, 100, TRUE);
}

/* One compressor for all frames, as a careful user would have it. Stores the last file in `file`. */
int libjpeg_loop(const frame* frames, int count, int horizontal, int vertical, int optimize, result* results,
                 uint8_t* file, size_t capacity) {
  struct jpeg_compress_struct compress;
  struct jpeg_error_mgr errors;
  compress.err = jpeg_std_error(&errors);
  jpeg_create_compress(&compress);
  for (int i = 0; i < count; ++i) {
    const frame* const f = frames + i;
    unsigned char* out = file;
    unsigned long size = capacity;
    JSAMPROW rows[16];
    const double start = now();
    jpeg_mem_dest(&compress, &out, &size);
    compress.image_width = (JDIMENSION)f->width;
    compress.image_height = (JDIMENSION)f->height;
    compress.input_components = 3;
    compress.in_color_space = JCS_EXT_BGR;
    if (i == 0) jpeg_set_defaults(&compress);
    set_table(&compress, 0, f->luma);
    set_table(&compress, 1, f->chroma);
    compress.comp_info[0].h_samp_factor = horizontal;
    compress.comp_info[0].v_samp_factor = vertical;
    compress.optimize_coding = optimize;
    compress.dct_method = JDCT_ISLOW;
    jpeg_start_compress(&compress, TRUE);
    while (compress.next_scanline < compress.image_height) {
      JDIMENSION n = 0;
      for (; n < 16 && compress.next_scanline + n < compress.image_height; ++n) {
        rows[n] = (JSAMPROW)(f->pixels + (size_t)(compress.next_scanline + n) * 3 * (size_t)f->width);
      }
      jpeg_write_scanlines(&compress, rows, n);
    }
    jpeg_finish_compress(&compress);
    results[i].milliseconds = now() - start;
    results[i].bytes = size;
    if (out != file) return 1; /* the buffer was too small */
  }
  jpeg_destroy_compress(&compress);
  return 0;
}

/* `fixed`: the frames' tables are set before each frame. Stores the last file in `file`. */
int edgejpeg_loop(edgejpeg_encoder* encoder, const frame* frames, int count, int fixed, result* results, uint8_t* file,
                  size_t capacity) {
  for (int i = 0; i < count; ++i) {
    const frame* const f = frames + i;
    const edgejpeg_image image = {.pixels = f->pixels,
                                  .width = f->width,
                                  .height = f->height,
                                  .row_stride = 3 * (ptrdiff_t)f->width,
                                  .pixel_stride = 3,
                                  .format = EDGEJPEG_BGR};
    const uint8_t* data;
    size_t size;
    const double start = now();
    if (fixed && edgejpeg_encoder_set_tables(encoder, f->luma, f->chroma)) return 1;
    if (edgejpeg_encoder_encode(encoder, &image, &data, &size)) return 1;
    results[i].milliseconds = now() - start;
    results[i].bytes = size;
    if (size > capacity) return 1;
    if (i == count - 1) memcpy(file, data, size);
  }
  return 0;
}
