/* What the benchmarks share. */
#ifndef LC_BENCH_H
#define LC_BENCH_H
#include "cli/cli.h"
#include "kernels/ceilings.h"

typedef struct {
  char *model, *adapter, *method, *set, *shape, *forms;
  int64_t repeat, tokens, prompt_tokens;
  char *sweep;
  bool exact;
  lc_train_opts train;
} lc_bench;
typedef struct {
  lc_cli *cli;
  lc_bench *opts;
  lc_ceilings ceilings;
  json_t *rows;
} lc_bench_run;
double lc_bench_median(double *x, int n);       /* sorts x */
void lc_bench_row(lc_bench_run *, json_t *row); /* keeps it and, without --json, prints it */
lc_status lc_bench_gemm(lc_bench_run *);
lc_status lc_bench_gemm_int8(lc_bench_run *); /* bench_gemm_int8.c: its rows of integer products */
lc_status lc_bench_attention(lc_bench_run *);
lc_status lc_bench_sampled(lc_bench_run *);
lc_status lc_bench_train(lc_bench_run *);
lc_status lc_bench_train_on(lc_bench_run *,
                            lc_loaded *); /* bench_run.c: one measurement of training on this net */
lc_status lc_bench_sweep(lc_bench_run *);
lc_status lc_bench_decode(lc_bench_run *);
lc_status lc_bench_prefill(lc_bench_run *);
lc_status lc_bench_load(lc_bench_run *);
lc_status lc_bench_switch(lc_bench_run *);
/* bench_synthetic.c: a Llama "L,C,F,H,KV" of random weights; *memory holds them (lc_free, after the model is closed). */
lc_status lc_bench_synthetic(lc_ctx *, const char *shape, lc_dtype form, lc_model **, void **memory);
lc_status lc_cli_set_pairs(lc_cli *, const lc_method *,
                           void *method_self);              /* cmd_train.c: every --set key=value */
const lc_method *lc_cli_method(lc_cli *, const char *name); /* NULL with the error set */
const lc_objective *lc_cli_objective(lc_cli *, const char *name);
#endif
