/* Encodes one frame again and again, for instructions.py to count the instructions.
 *
 * instructions JOB REPEATS. The job: width, height, subsampling, effort, designed, quality limit (six int32), two
 * water levels (double), two tables (128 bytes), sensitivities (192 doubles), packed BGR. */
#include <edgejpeg.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char** arguments) {
  int32_t head[6];
  double levels[2];
  uint8_t tables[128];
  double sensitivity[192];
  if (count != 3) return 1;
  FILE* const job = fopen(arguments[1], "rb");
  if (!job || fread(head, sizeof(head), 1, job) != 1 || fread(levels, sizeof(levels), 1, job) != 1 ||
      fread(tables, sizeof(tables), 1, job) != 1 || fread(sensitivity, sizeof(sensitivity), 1, job) != 1) {
    return 1;
  }
  const size_t bytes = (size_t)head[0] * (size_t)head[1] * 3;
  uint8_t* const pixels = malloc(bytes);
  if (!pixels || fread(pixels, bytes, 1, job) != 1) return 1;
  fclose(job);
  edgejpeg_options options = {0};
  options.subsampling = head[2];
  options.effort = head[3];
  options.threads = 1;
  options.standard_huffman = 1;
  const edgejpeg_image image = {.pixels = pixels,
                                .width = head[0],
                                .height = head[1],
                                .row_stride = 3 * (ptrdiff_t)head[0],
                                .pixel_stride = 3,
                                .format = EDGEJPEG_BGR};
  edgejpeg_encoder* encoder;
  const uint8_t* data;
  size_t size = 0;
  if (edgejpeg_encoder_create(&options, &encoder) ||
      (head[4] ? edgejpeg_encoder_set_design(encoder, sensitivity, levels[0], levels[1], head[5])
               : edgejpeg_encoder_set_tables(encoder, tables, tables + 64))) {
    return 2;
  }
  for (int i = atoi(arguments[2]); i > 0; --i) {
    if (edgejpeg_encoder_encode(encoder, &image, &data, &size)) return 2;
  }
  printf("%zu\n", size);
  edgejpeg_encoder_destroy(encoder);
  free(pixels);
  return 0;
}
