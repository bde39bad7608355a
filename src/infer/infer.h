/* infer: the KV cache, sampling, generation. */
#ifndef LC_INFER_H
#define LC_INFER_H
#include "model/model.h"

typedef struct {
  double temp, top_p, min_p, repeat_penalty;
  int64_t top_k, repeat_last_n, max_tokens;
  uint64_t seed;
  bool ignore_eos;
  const char *const *stop;
  int n_stop; /* strings */
} lc_sample_opts;
#define LC_SAMPLE_OPTS_INIT                                                                                  \
  {                                                                                                          \
    .temp = 0.8, .top_p = 0.95, .min_p = 0.05, .repeat_penalty = 1.0, .top_k = 40, .repeat_last_n = 64,      \
    .max_tokens = 128                                                                                        \
  }

/* One thread of control over a net: a plan for prefill and one for single tokens, a KV cache of `context`
 * positions. */
typedef struct lc_session lc_session;
lc_status lc_session_new(lc_net *, int64_t context, int64_t prefill_rows, lc_dtype kv, lc_session **);
void lc_session_free(lc_session *);
/* From here on products of quantised weights take tokens in bytes, a scale for 32 values, as llama.cpp does: one token at a time always, prompts where
 * the committed table names it (lc_gemm_takes_q8). Several times faster, and not the exact numbers. Off in a new session: evaluation and training
 * never have it. */
void lc_session_int8(lc_session *, bool on);
void lc_session_truncate(lc_session *, int64_t n); /* keeps the first n positions */
int64_t lc_session_length(const lc_session *);
/* Runs ids through the net (appending to the cache); logits of the last one -> dst (V), or of all (n,V) when
 * all. */
lc_status lc_session_feed(lc_session *, const int32_t *ids, int64_t n, bool all, float *dst);
/* Chooses a token from logits (changed in place). draw: position in the stream, so that a seed gives the same
 * text again. temp 0: greedy, ties to the lower id. */
int32_t lc_sample(const lc_sample_opts *, float *logits, int64_t V, const int32_t *history, int64_t n_history,
                  uint64_t draw);

typedef int (*lc_text_fn)(void *arg, const char *text, size_t n); /* non-zero stops */
typedef struct {
  int64_t prompt_tokens, generated_tokens;
  double prefill_seconds, decode_seconds;
  const char *finish_reason; /* "stop", "length", "callback" */
} lc_gen_stats;
lc_status lc_generate_ids(lc_session *, const lc_tokenizer *, const int32_t *prompt, int64_t n,
                          const lc_sample_opts *, lc_text_fn, void *arg, lc_ids *out, lc_gen_stats *);
#endif
