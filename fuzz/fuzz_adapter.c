/* Any files as the directory of an adapter, in every layout (PEFT's LoRA and SHiRA, native, modules, a log of steps), on a
 * model of one layer, with the head that the adapter asks for. What loads must change tiles without reading outside its
 * own, whichever way it is applied, and leave the base's bits when it goes; what is refused must have changed nothing. */
#include "fuzz.h"
#include <jansson.h>
#include "base.h"
#include "model/model.h"

static const char *const names[] = {"/adapter/adapter_config.json", "/adapter/adapter_model.safetensors",
                                    "/adapter/lacuna_adapter.json", "/adapter/lacuna_adapter.safetensors",
                                    "/adapter/lacuna_adapter.log",  "/adapter/lacuna_head.safetensors"};

/* Sum over the bits of all matrices as a product would read them; 0: memory ran out. */
static uint64_t bits(lc_ctx *ctx, const lc_net *net) {
  uint64_t sum = 1;
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    for (int64_t r = 0; r < w->M && w->ndim == 2; r++) {
      const void *row;
      int64_t ld;
      if (!fuzz_ok(ctx, lc_weight_tile(ctx, 0, w, (lc_rect){r, r + 1, 0, w->N}, LC_F32, &row, &ld))) return 0;
      for (int64_t c = 0; c < w->N; c++) {
        uint32_t u;
        memcpy(&u, (const float *)row + c, 4);
        sum = sum * 1099511628211u + u;
      }
    }
  }
  return sum;
}

static void try_net(lc_ctx *ctx, lc_net *net) {
  const uint64_t base = bits(ctx, net);
  for (int apply = LC_PATCH; apply <= LC_ASIDE; apply++) {
    lc_adapter *a;
    if (lc_adapter_load(net, "an/adapter", 1, (lc_apply)apply, &a)) {
      fuzz_refused(ctx);
      FUZZ_CHECK(net->n_adapter == 0 && net->n_own == 0);
    } else {
      bits(ctx, net);
      if (!lc_adapter_set(a, 0, (lc_apply)apply)) {
        const uint64_t off = bits(ctx, net);
        FUZZ_CHECK(!off || !base || off == base);
      }
      lc_adapter_remove(a);
    }
    const uint64_t after = bits(ctx, net);
    FUZZ_CHECK(!after || !base || after == base);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  json_set_alloc_funcs(malloc, free); /* Jansson 2.14 asserts when it cannot grow a string */
  const size_t before = fuzz_held(ctx);
  lc_head_opts head = {0};
  lc_model *m = NULL;
  lc_net *net = NULL;
  fuzz_no_files();
  fuzz_file("/base/config.json", base_config().data, base_config().n);
  fuzz_file("/base/model.safetensors", base_tensors().data, base_tensors().n);
  fuzz_pieces(data, n, names, sizeof names / sizeof *names);
  if (lc_adapter_head(ctx, "an/adapter", &head)) fuzz_refused(ctx);
  if (lc_model_open_for(ctx, "the/base", &head, &m))
    fuzz_refused(ctx);
  else if (lc_net_new(m, LC_F32, &net))
    fuzz_refused(ctx);
  else
    try_net(ctx, net);
  lc_net_free(net);
  if (m) lc_model_close(m);
  lc_head_opts_free(ctx, &head);
  fuzz_no_files();
  FUZZ_CHECK(fuzz_held(ctx) == before);
  return 0;
}
