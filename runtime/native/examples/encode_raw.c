/* Encodes raw frames with a profile that is compiled in: no Python, no files but the frames.
 *
 *   edgejpeg info efficientnet_lite0 --c-header profile.h
 *   encode_raw 640 480 nv12 out/frame- < frames.yuv      writes out/frame-000000.jpg, out/frame-000001.jpg, ...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profile.h"

typedef struct layout {
  const char* name;
  int32_t format;
  int32_t range;
  int pixel_stride; /* of the first plane */
} layout;

static const layout kLayouts[] = {
    {"rgb", EDGEJPEG_RGB, 0, 3},
    {"bgr", EDGEJPEG_BGR, 0, 3},
    {"rgbx", EDGEJPEG_RGB, 0, 4},
    {"bgrx", EDGEJPEG_BGR, 0, 4},
    {"gray", EDGEJPEG_LUMA, 0, 1},
    {"nv12", EDGEJPEG_NV12, EDGEJPEG_LIMITED_RANGE, 1},
    {"nv21", EDGEJPEG_NV21, EDGEJPEG_LIMITED_RANGE, 1},
    {"i420", EDGEJPEG_I420, EDGEJPEG_LIMITED_RANGE, 1},
    {"yuyv", EDGEJPEG_YUYV, EDGEJPEG_LIMITED_RANGE, 2},
    {"nv12-full", EDGEJPEG_NV12, EDGEJPEG_FULL_RANGE, 1},
    {"nv21-full", EDGEJPEG_NV21, EDGEJPEG_FULL_RANGE, 1},
    {"i420-full", EDGEJPEG_I420, EDGEJPEG_FULL_RANGE, 1},
    {"yuyv-full", EDGEJPEG_YUYV, EDGEJPEG_FULL_RANGE, 2},
};

static const layout* find_layout(const char* name) {
  size_t i;
  for (i = 0; i < sizeof(kLayouts) / sizeof(kLayouts[0]); ++i) {
    if (strcmp(kLayouts[i].name, name) == 0) return &kLayouts[i];
  }
  return NULL;
}

/* 1..EDGEJPEG_MAX_SIZE, or 0. */
static int32_t read_side(const char* text) {
  char* end;
  const long value = strtol(text, &end, 10);
  return *text != '\0' && *end == '\0' && value >= 1 && value <= EDGEJPEG_MAX_SIZE ? (int32_t)value : 0;
}

static int is_subsampled(const layout* kind) {
  return kind->format == EDGEJPEG_NV12 || kind->format == EDGEJPEG_NV21 || kind->format == EDGEJPEG_I420;
}

static size_t frame_bytes(const layout* kind, int32_t width, int32_t height) {
  const size_t pixels = (size_t)width * (size_t)height;
  return is_subsampled(kind) ? pixels + pixels / 2 : pixels * (size_t)kind->pixel_stride;
}

/* Planes behind each other in `memory`, rows without gaps. */
static void describe(const layout* kind, int32_t width, int32_t height, const uint8_t* memory, edgejpeg_image* image) {
  const size_t pixels = (size_t)width * (size_t)height;
  memset(image, 0, sizeof(*image));
  image->pixels = memory;
  image->width = width;
  image->height = height;
  image->format = kind->format;
  image->range = kind->range;
  image->pixel_stride = kind->pixel_stride;
  image->row_stride = width * image->pixel_stride;
  if (!is_subsampled(kind)) return;
  image->chroma[0] = memory + pixels;
  image->chroma_stride[0] = width;
  if (kind->format == EDGEJPEG_I420) {
    image->chroma[1] = memory + pixels + pixels / 4;
    image->chroma_stride[0] = image->chroma_stride[1] = width / 2;
  }
}

static int write_file(const char* prefix, unsigned long index, const uint8_t* data, size_t size) {
  char name[1024];
  FILE* file;
  int written;
  if (snprintf(name, sizeof(name), "%s%06lu.jpg", prefix, index) >= (int)sizeof(name)) return 0;
  file = fopen(name, "wb");
  if (file == NULL) return 0;
  written = fwrite(data, 1, size, file) == size;
  return fclose(file) == 0 && written;
}

static int encode_all(edgejpeg_encoder* encoder, const edgejpeg_image* image, uint8_t* memory, size_t bytes,
                      const char* prefix) {
  unsigned long index = 0;
  size_t got;
  while ((got = fread(memory, 1, bytes, stdin)) == bytes) {
    const uint8_t* data;
    size_t size;
    if (edgejpeg_encoder_encode(encoder, image, &data, &size) != EDGEJPEG_OK) {
      fprintf(stderr, "encode_raw: frame %lu: %s\n", index, edgejpeg_last_error());
      return 1;
    }
    if (!write_file(prefix, index, data, size)) {
      fprintf(stderr, "encode_raw: cannot write %s%06lu.jpg\n", prefix, index);
      return 1;
    }
    ++index;
  }
  if (got != 0 || ferror(stdin)) {
    fprintf(stderr, "encode_raw: frame %lu has %lu of %lu bytes\n", index, (unsigned long)got, (unsigned long)bytes);
    return 1;
  }
  printf("%lu frames with profile %s\n", index, EDGEJPEG_PROFILE_NAME);
  return 0;
}

int main(int argc, char** argv) {
  edgejpeg_encoder* encoder = NULL;
  edgejpeg_image image;
  uint8_t* memory;
  size_t bytes;
  int code;
  const layout* const kind = argc == 5 ? find_layout(argv[3]) : NULL;
  const int32_t width = kind != NULL ? read_side(argv[1]) : 0;
  const int32_t height = kind != NULL ? read_side(argv[2]) : 0;
  if (width == 0 || height == 0) {
    fprintf(stderr,
            "usage: encode_raw WIDTH HEIGHT FORMAT PREFIX < FRAMES; a format is rgb, bgr, rgbx, bgrx, gray, nv12, "
            "nv21, i420 or yuyv, the last four also with -full; sides are 1 to 65535\n");
    return 2;
  }
  bytes = frame_bytes(kind, width, height);
  memory = malloc(bytes);
  if (memory == NULL) {
    fprintf(stderr, "encode_raw: no memory for %lu bytes\n", (unsigned long)bytes);
    return 1;
  }
  describe(kind, width, height, memory, &image);
  if (edgejpeg_profile_create(1, &encoder) != EDGEJPEG_OK) {
    fprintf(stderr, "encode_raw: %s\n", edgejpeg_last_error());
    free(memory);
    return 1;
  }
  code = encode_all(encoder, &image, memory, bytes, argv[4]);
  edgejpeg_encoder_destroy(encoder);
  free(memory);
  return code;
}
