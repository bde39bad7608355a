/* A directory with a tiny model and a text, for tests that see only the public header. */
#include <stdio.h>
#include <stdlib.h>
#include "support/tiny_model.h"

char *lc_tiny_world(void);
void lc_tiny_world_end(char *);

char *lc_tiny_world(void) {
  lc_ctx *ctx;
  lc_tiny m = LC_TINY_LLAMA;
  if (lc_ctx_new(1, &ctx, NULL)) return NULL;
  char *dir = lc_tiny_dir();
  lc_status st = dir ? lc_tiny_hf(ctx, &m, lc_tiny_path(dir, "model")) : LC_FAILED;
  FILE *f = st ? NULL : fopen(lc_tiny_path(dir, "text.txt"), "w");
  for (int i = 0; f && i < 30; i++)
    fprintf(f, "the cat sat on a mat and saw two birds fly far away, and the dog ran after them %d times.\n",
            i);
  if (f) fclose(f);
  lc_ctx_free(ctx);
  return f ? dir : NULL;
}

void lc_tiny_world_end(char *dir) {
  lc_ctx *ctx;
  if (!dir || lc_ctx_new(1, &ctx, NULL)) return;
  lc_remove_tree(ctx, dir);
  lc_ctx_free(ctx);
  free(dir);
}
