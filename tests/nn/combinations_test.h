/* The rows of test_combinations.c: how a kind of delta is made, and which dense matrix (or bias) the net then has. */
#ifndef LC_COMBINATIONS_TEST_H
#define LC_COMBINATIONS_TEST_H
#include "model/adapter.h"
#include "nn/bottleneck.h"
#include "nn/delta_kernel.h"
#include "nn/mask.h"
#include "nn/mole.h"
#include "nn/noise.h"
#include "nn/slice.h"
#include "optim/optim.h"
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { T = 13, V = 300 };
#define FFN  "model.layers.0.mlp."
#define UP   FFN "up_proj.weight"
#define DOWN FFN "down_proj.weight"
extern lc_ctx *ctx;
void ok(lc_status); /* fails the test with the error's sentence */
float noise_at(const char *name, int64_t k);

typedef void dense_fn(const lc_delta *, double *to); /* to[M·N] has the base, and gets the delta's change */
enum { MODULES = 1 << LC_LAYOUT_MODULES, PEFT_LORA = 1 << LC_LAYOUT_PEFT_LORA, LOG = 1 << LC_LAYOUT_LOG };
typedef struct {
  const char *name; /* of the row: a kind, and a word after a blank where it has two */
  const lc_delta_ops *ops;
  void (*make)(lc_adapter *, bool trained);
  dense_fn *dense;                      /* of the adapter's last delta */
  const char *changes;                  /* the weight that it writes to */
  bool chain;                           /* its gradients are dW through `dense` */
  bool idle;                            /* has no trainables: what an optimiser would need is not there */
  int layouts;                          /* that hold it; the others say "which this layout cannot hold" */
  const char *in_place, *aside, *merge; /* what cannot be: a part of the sentence; NULL: can be */
} row;
extern const row rows[];
extern const int n_rows;
#endif
