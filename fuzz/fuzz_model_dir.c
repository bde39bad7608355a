/* Any files as the directory of a model: its configuration (every family's), head, sentence-transformers and picture
 * processor files, tensors. What opens must give a net whose weights can be read. */
#include "fuzz.h"
#include <jansson.h>
#include "image/image.h"
#include "infer/embed.h"
#include "model/model.h"

static const char *const names[] = {"/model/config.json",
                                    "/model/model.safetensors",
                                    "/model/generation_config.json",
                                    "/model/modules.json",
                                    "/model/sentence_bert_config.json",
                                    "/1_Pooling/config.json",
                                    "/model/preprocessor_config.json"};

static void read_weights(lc_ctx *ctx, const lc_net *net) {
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    const void *tile;
    int64_t ld;
    if (w->ndim == 1) fuzz_touch(w->vector, (size_t)w->N * sizeof *w->vector);
    if (w->ndim == 2 &&
        fuzz_ok(ctx, lc_weight_tile(ctx, 0, w, (lc_rect){0, w->M, 0, w->N}, LC_F32, &tile, &ld)))
      fuzz_touch(tile, (size_t)w->N * sizeof(float));
  }
}

static void open_for(lc_ctx *ctx, lc_task task, int64_t labels) {
  lc_model *m = NULL;
  lc_net *net = NULL;
  lc_embed_opts embed;
  lc_image_processor processor;
  const lc_head_opts o = {.task = task, .labels = labels, .fresh = labels > 0, .seed = 1};
  if (lc_model_open_for(ctx, "a/model", &o, &m)) {
    fuzz_refused(ctx);
    return;
  }
  FUZZ_CHECK(m->config.C > 0 && m->config.L > 0 && m->n > 0 &&
             (task == LC_TASK_OWN || m->config.task == task));
  if (lc_embed_config(m, &embed)) fuzz_refused(ctx);
  if (lc_image_processor_read(ctx, m->path, 8, &processor)) fuzz_refused(ctx);
  if (lc_net_new(m, LC_F32, &net))
    fuzz_refused(ctx);
  else
    read_weights(ctx, net);
  lc_net_free(net);
  lc_model_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  json_set_alloc_funcs(malloc, free); /* Jansson 2.14 asserts when it cannot grow a string */
  const size_t before = fuzz_held(ctx);
  fuzz_no_files();
  fuzz_pieces(data, n, names, sizeof names / sizeof *names);
  open_for(ctx, LC_TASK_OWN, 0);
  open_for(ctx, LC_TASK_CLASSIFY, 3);
  fuzz_no_files();
  FUZZ_CHECK(fuzz_held(ctx) == before);
  return 0;
}
