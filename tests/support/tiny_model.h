/* Tiny random models for tests: an HF directory or a GGUF file of a few kilobytes, with a byte-level
 * tokenizer, from a seed. The same description gives the same weights in both formats. Written with the io
 * writers only, and with tables of its own, so that it checks src/model instead of repeating it. */
#ifndef LC_TEST_TINY_MODEL_H
#define LC_TEST_TINY_MODEL_H
#include "model/model.h"

typedef struct {
  const char *family; /* "llama", "gpt2", "bert" or "roberta" (the bodies of the last two, without a head) */
  int64_t C, L, H, G, D, F, V, context; /* gpt2: G and D are ignored */
  bool tied, attention_bias, mlp_bias;
  uint64_t seed;
  lc_dtype dtype;     /* of matrices in the file; HF: F32, F16, BF16 */
  lc_dtype through;   /* matrices' values are rounded through this first (a GGUF type); LC_NONE: not */
  const char *config; /* a JSON object merged into config.json (HF), or NULL */
  bool old_spelling;  /* torch_dtype, rope_theta and rope_scaling */
  bool bare;          /* names without "model." or "transformer.", as a network without head is saved */
  int shards;         /* > 1: sharded, with an index */
  bool no_tokenizer;
  const char *drop; /* leaves this tensor (HF name) out */
} lc_tiny;

/* 2 layers, grouped heads, tied; widths are multiples of 32, so that every quantised type can hold the
 * matrices. */
#define LC_TINY_LLAMA                                                                                        \
  (lc_tiny) {                                                                                                \
    .family = "llama", .C = 64, .L = 2, .H = 4, .G = 2, .D = 16, .F = 96, .V = 300, .context = 128,          \
    .tied = true, .seed = 1, .dtype = LC_F32                                                                 \
  }
#define LC_TINY_GPT2                                                                                         \
  (lc_tiny) {                                                                                                \
    .family = "gpt2", .C = 64, .L = 2, .H = 4, .G = 4, .D = 16, .F = 128, .V = 300, .context = 128,          \
    .tied = true, .seed = 1, .dtype = LC_F32                                                                 \
  }

#define LC_TINY_ROBERTA                                                                                      \
  (lc_tiny) {                                                                                                \
    .family = "roberta", .C = 64, .L = 2, .H = 4, .G = 4, .D = 16, .F = 96, .V = 300, .context = 130,        \
    .seed = 1, .dtype = LC_F32                                                                               \
  }

lc_status lc_tiny_hf(lc_ctx *, const lc_tiny *, const char *dir); /* makes the directory */
lc_status lc_tiny_gguf(lc_ctx *, const lc_tiny *, const char *path);

/* A fresh directory under $TMPDIR (or /tmp); free() the name after lc_remove_tree. */
char *lc_tiny_dir(void);
/* "dir/name" in one of 64 rotating buffers. */
const char *lc_tiny_path(const char *dir, const char *name);

/* Runs ids through the net in one pass: all logits (n, V) -> dst; of a classifier, the logits of the row that it reads;
 * of a bare network, the hidden states. */
lc_status lc_tiny_logits(lc_net *, const int32_t *ids, int64_t n, float *dst);
/* Token types of the passes that follow (borrowed; NULL: zeros). */
void lc_tiny_types(const int32_t *types);
/* The same for patches (n, width of a patch). */
void lc_tiny_pixels(const float *);
/* Loss (mean over labels >= 0, labels[t] beside ids[t]: the label of position t is the token after it) and
 * gradients: each trainable's grad. Of another head than a causal one the labels are the rows' own (one: a classifier's). */
lc_status lc_tiny_loss(lc_net *, const int32_t *ids, const int32_t *labels, int64_t n, bool backward,
                       double *loss);
/* ‖a-b‖/‖b‖ */
double lc_tiny_error(const float *a, const float *b, int64_t n);
#endif
