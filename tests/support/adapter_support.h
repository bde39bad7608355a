/* For tests of adapters: the golden models with an adapter's expected logits, random sparse adapters, a sum over weights. */
#ifndef LC_TEST_ADAPTER_SUPPORT_H
#define LC_TEST_ADAPTER_SUPPORT_H
#include "support/tiny_model.h"

typedef struct {
  lc_model *m;
  lc_net *net;
  lc_safetensors e;
  const int32_t *ids;
  int64_t T, V;
  const float *expected; /* logits (T, V) */
  float *logits;
} t_golden;
t_golden t_golden_open(lc_ctx *, const char *base,
                       const char *adapter); /* golden/BASE, ADAPTER/expected.safetensors */
void t_golden_close(lc_ctx *, t_golden *);
const float *t_golden_logits(lc_ctx *, t_golden *); /* of the net as it is */
/* An adapter of K random positions and values on every target, attached. */
lc_adapter *t_sparse(lc_ctx *, lc_net *, const char *targets, int64_t K, uint32_t seed);
uint64_t t_weights_sum(lc_ctx *, lc_net *); /* over the bits of what the linear layers would read */
#endif
