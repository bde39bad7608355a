/* The small model that adapters and checkpoints of the fuzz targets stand on, in the memory of the program. */
#ifndef LC_FUZZ_BASE_H
#define LC_FUZZ_BASE_H
#include <stddef.h>

typedef struct {
  const void *data;
  size_t n;
} base_file;
base_file base_config(void);  /* config.json: one layer of width 8, tied */
base_file base_tensors(void); /* model.safetensors */
#endif
