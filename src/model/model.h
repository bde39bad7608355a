/* model: files and structure of a pretrained network (constant, shared), the net made of it (forms, deltas,
 * trainables), adapters, export.
 *
 * A family is one file: how its configuration is read, which tensors it has under which names, and its
 * forward pass in the builder's words. */
#ifndef LC_MODEL_H
#define LC_MODEL_H
#include "nn/nn.h"
#include "text/text.h"

/* ---- tasks: what a network's head is for ---- */
typedef enum {
  LC_TASK_OWN,      /* in options: as the files say */
  LC_TASK_LM,       /* the next token */
  LC_TASK_MASKED,   /* tokens that an encoder does not see */
  LC_TASK_NONE,     /* no head: hidden states */
  LC_TASK_CLASSIFY, /* one label for a row */
  LC_TASK_TOKENS    /* a label for each token */
} lc_task;
const char *lc_task_name(lc_task);
bool lc_task_has_labels(lc_task);

/* ---- configuration ---- */
typedef struct lc_family lc_family;
typedef struct {
  const lc_family *family;
  lc_task task;
  int64_t labels; /* of a task that has labels */
  int64_t C, L, H, G, D, F, V,
      context; /* width, layers, heads, kv heads, head width, ffn width, vocabulary, positions */
  float norm_eps;
  bool tied, attention_bias, mlp_bias;
  float attention_scale;          /* 0: 1/√D */
  bool scale_by_layer;            /* GPT-2's scale_attn_by_inverse_layer_idx */
  int64_t types, first_position;  /* token types of an encoder; row of the first position (RoBERTa: 2) */
  int64_t image, patch, channels; /* side of the pictures and of a patch; 0: a network of text */
  lc_activation_kind activation;
  lc_rope rope;
  int64_t window;        /* 0: none */
  int32_t bos, eos, pad; /* -1: none */
  struct json_t
      *json; /* the HF config (own, or made from GGUF metadata in today's spelling); written to outputs */
} lc_config;
const char *lc_architecture(const lc_config *);                    /* its name in config.json */
const char *lc_config_label(const lc_config *, int64_t i);         /* name of label i: borrowed */
int64_t lc_config_find_label(const lc_config *, const char *name); /* -1: none */

/* ---- tensors of a family ---- */
typedef struct {
  char *name, *gguf; /* HF name; GGUF name ("" when it has none there) */
  int layer;
  lc_weight_kind kind;
  int64_t M, N;
  int ndim;        /* logical out×in; a vector: M = 1, ndim 1 */
  int stored_ndim; /* 0: as above; else the file has the same values in these sizes (a convolution's kernel) */
  int64_t stored[4];
  bool transposed;        /* stored in×out in HF files (Conv1D) */
  int64_t permuted_heads; /* rows are rope-permuted in GGUF, for so many heads; 0 not */
  bool optional;          /* left out where the file lacks it */
  bool may_be_new;        /* drawn where the file lacks it and a head was asked for */
  bool head;              /* of the task's head: trained whole beside a method's own */
} lc_tensor_decl;
typedef struct {
  lc_tensor_decl *decl;
  int n, cap;
  lc_ctx *ctx;
  lc_status st;
} lc_decls;
/* fmt and gguf take the layer. Sticky error. */
void lc_declare(lc_decls *, lc_tensor_decl proto, const char *fmt, const char *gguf);

/* ---- structure map: what belongs together across weights ---- */
typedef enum { LC_ROLE_NONE, LC_ROLE_Q, LC_ROLE_V, LC_ROLE_O, LC_ROLE_UP, LC_ROLE_DOWN } lc_role;
typedef struct {
  char *weight;
  int axis /* 0 rows, 1 columns */;
  int64_t first, unit; /* element i spans [first+i·unit, +unit) */
  lc_role
      role; /* of a weight, by which selection asks for it: V's rows in KV_HEAD, Q's rows and O's columns in HEAD, UP's rows and
                   DOWN's columns in CHANNEL; a family says each once a layer */
} lc_side;
typedef enum { LC_S_RESIDUAL, LC_S_HEAD, LC_S_KV_HEAD, LC_S_CHANNEL, LC_S_VOCAB } lc_structure_kind;
/* HEAD: a query head (heads that share a kv head may change places). KV_HEAD: a kv head with the query heads
 * that it serves. A vector has axis 0 only. */
typedef struct {
  lc_structure_kind kind;
  int layer;
  int64_t count;
  lc_side *side;
  int n_side;
} lc_structure;
void lc_structures_free(lc_ctx *, lc_structure *, int n);

typedef struct {
  const char *name; /* config.json "architectures" */
  lc_task task;
} lc_architecture_row;

struct lc_family {
  lc_architecture_row architectures[8]; /* the first names the family */
  const char *model_type;               /* config.json "model_type" */
  const char *gguf;                     /* general.architecture; NULL: not read from GGUF */
  const char *prefix; /* of all names but the head's: files of the bare network may leave it out ("model.") */
  bool
      bidirectional; /* tokens see what comes after them: no generation, and a row's label stands at its first token */
  lc_status (*config_hf)(lc_ctx *, const char *path, const struct json_t *,
                         lc_config *); /* refuses features it does not know, by name */
  lc_status (*config_gguf)(lc_ctx *, const lc_gguf *, lc_config *);       /* fills config and json */
  lc_status (*write_gguf)(lc_ctx *, const lc_config *, lc_gguf_writer *); /* <arch>.* metadata */
  void (*tensors)(const lc_config *, lc_decls *);
  lc_val (*build)(lc_builder *, const lc_config *); /* ids, pos -> final hidden (after the last norm), f32 */
  lc_val (*features)(lc_builder *, const lc_config *,
                     lc_val hidden); /* what the head reads; NULL: hidden itself */
  const char *(*head)(
      const lc_config *); /* name of the head's weight (the embedding when tied); NULL: no head */
  const char *(*head_bias)(
      const lc_config *); /* of the vector added to its logits; may be NULL, or return it */
  lc_status (*structures)(lc_ctx *, const lc_config *, lc_structure **, int *n);
};
extern const lc_family lc_family_llama, lc_family_gpt2, lc_family_bert, lc_family_roberta, lc_family_vit;
extern const lc_family *const lc_families[];
extern const int lc_n_families;

/* ---- model: constant once open ---- */
typedef struct lc_model {
  lc_ctx *ctx;
  char *path;
  bool is_gguf;
  lc_config config;
  lc_safetensors st;
  lc_gguf gguf; /* one of them */
  lc_tensor_decl *decl;
  lc_tensor *src;
  int32_t **row_map;
  int n;
  int32_t *maps[2];     /* the distinct row maps: q's and k's */
  float **drawn;        /* values of tensors that are new; else NULL */
  uint64_t fingerprint; /* config, tensor table, sampled pages */
} lc_model;
lc_status lc_model_open(lc_ctx *, const char *path, lc_model **);
/* The same network for a task of the caller's choice (LC_TASK_OWN: as the files say), with a new head where the files
 * have none for it, or when asked. labels 0: those of the files. Label names NULL: LABEL_0, LABEL_1, … */
typedef struct {
  lc_task task;
  int64_t labels;
  const char *const *label;
  bool fresh;
  uint64_t seed; /* of what is new */
} lc_head_opts;
enum { LC_MAX_LABELS = 65536 };
lc_status lc_model_open_for(lc_ctx *, const char *path, const lc_head_opts *, lc_model **);
void lc_head_opts_free(lc_ctx *, lc_head_opts *); /* of opts whose names are lc_alloc'ed */
void lc_model_close(lc_model *);
lc_status lc_model_tokenizer(const lc_model *, lc_tokenizer **); /* caller frees */
int64_t lc_model_parameters(const lc_model *);
/* A tensor of the model's files that will not be read for a while: its pages need not stay in memory. */
void lc_model_forget(const lc_model *, const lc_tensor *);

/* ---- net ---- */
typedef struct lc_adapter lc_adapter;
typedef struct lc_net {
  lc_ctx *ctx;
  const lc_model *model;
  lc_tokenizer *tok; /* opened by the first who asks; NULL before */
  lc_dtype compute;
  lc_weights weights;
  lc_param **own;
  int n_own; /* params of whole weights (full fine-tuning) */
  lc_adapter **adapter;
  int n_adapter;
  lc_tap_hook tap[4];
  int n_tap;
} lc_net;
lc_status lc_net_new(const lc_model *, lc_dtype compute, lc_net **);
void lc_net_free(lc_net *);
lc_status lc_net_tokenizer(lc_net *, lc_tokenizer **); /* opened once, borrowed from the net */
lc_weight *lc_net_weight(const lc_net *, const char *name);
/* Makes every weight (or those of kinds in the mask) trainable as a whole: f32 master, dense gradient. */
lc_status lc_net_train_whole(lc_net *, bool (*want)(const lc_weight *, void *), void *arg);
/* One weight replaced by f32 values that nothing trains (copied); NULL: the base's again. */
lc_status lc_net_set_whole(lc_net *, lc_weight *, const float *values);
/* Undoes it: masters are freed, and every weight has the base's own bits. Trained values are lost. */
lc_status lc_net_release_whole(lc_net *);
/* All trainables in a fixed order (weights by name, deltas in order of attachment): *out is lc_free'd by the
 * caller. */
lc_status lc_net_params(const lc_net *, lc_param ***out, int *n);

/* The graph of a net. objective NULL: the head's cross-entropy. with_loss false: hidden, and what the head reads.
 * types, pixels: none where the family has no token types, or sees nothing. */
typedef struct {
  lc_graph *g;
  lc_val ids, pos, types, pixels, labels, hidden, features, nll;
  const lc_auxiliary *auxiliary; /* further losses, or NULL */
  lc_weight *head;
} lc_net_graph;
typedef lc_status (*lc_objective_fn)(void *self, lc_builder *, lc_val hidden, lc_val *nll);
lc_status lc_net_build(lc_net *, bool with_loss, lc_objective_fn objective, void *self, lc_net_graph *);
void lc_net_graph_free(lc_net_graph *);

/* ---- targets: PEFT's rule. "all-linear" (every linear but the head), "a,b" name suffixes, "re:…" full match
 * on the module path ---- */
lc_status lc_targets(lc_net *, const char *rule, lc_weight ***out,
                     int *n); /* sorted by name; matching nothing is an error; lc_free */
bool lc_target_matches(const char *module, const char *item); /* equals, or is its suffix after a dot */

/* ---- adapters: named groups of deltas on a net, and their files ---- */
typedef struct {
  lc_weight *w;
  float *value;
} lc_whole;
struct lc_adapter {
  char *name, *path; /* path: NULL when made here */
  float scale;
  lc_net *net;
  lc_delta **delta;
  int n, cap;
  lc_whole *head; /* of the task's head: in place of the base's unless the scale is 0 */
  int n_head;
  bool exact_base;       /* its files are refused on another base than this one */
  struct json_t *config; /* adapter_config.json as it was read, so that saving passes on what lacuna does not
                            use; or NULL */
};
typedef enum {
  LC_LAYOUT_PEFT_LORA,
  LC_LAYOUT_PEFT_SHIRA,
  LC_LAYOUT_NATIVE,
  LC_LAYOUT_MODULES,
  LC_LAYOUT_LOG
} lc_layout;
/* Reads a PEFT LoRA or SHiRA directory, or a native one, and attaches its deltas. Nothing has changed when it
 * fails. */
lc_status lc_adapter_load(lc_net *, const char *dir, float scale, lc_apply, lc_adapter **);
/* Which head a base needs for the adapter in dir (LC_TASK_OWN: none of its own); lc_head_opts_free. */
lc_status lc_adapter_head(lc_ctx *, const char *dir, lc_head_opts *);
lc_status lc_adapter_new(lc_net *, const char *name,
                         lc_adapter **); /* empty: methods add deltas they attached */
lc_status lc_adapter_add(lc_adapter *, lc_delta *);
lc_status lc_adapter_set(lc_adapter *, float scale, lc_apply); /* scale 0 is the base, bit for bit */
lc_status lc_adapter_remove(lc_adapter *); /* detaches and frees; the base's own bits are back */
typedef struct {
  const char *base_name;
  const char *targets /* as given */;
  const char *method;
  const char *template_name;
  const char *mask_type;
  int64_t seed;
  bool dry;
} lc_adapter_meta;
lc_status lc_adapter_save(const lc_adapter *, lc_layout, const char *dir, const lc_adapter_meta *);
/* All adapters of a net at their scales as one more, which is not applied: lists of entries (slices too), or LoRAs; else refused. */
lc_status lc_adapter_sum(lc_net *, lc_adapter **, bool *low_rank);
/* Why PEFT's SHiRA layout cannot hold this adapter (the rest of a sentence), or NULL when it can. */
const char *lc_adapter_shira_refusal(const lc_adapter *);
/* How much two adapters interfere where both change a weight (SHiRA, arXiv 2406.13175): of S1ᵀS2 (N,N),
 * summed over their sparse deltas on one weight. */
typedef struct {
  const char *weight;
  int64_t both; /* positions in both */
  double awom;  /* Frobenius norm */
  double awor;  /* 1 - nonzeros/N² */
} lc_overlap_row;
lc_status lc_adapter_overlap(const lc_adapter *, const lc_adapter *, lc_overlap_row **,
                             int *n); /* a row a shared weight; lc_free */

/* ---- export: effective weights (all deltas merged) ---- */
typedef struct {
  char *name;
  double survive /* share of changed entries that differ after rounding */, error /* ‖Q(W+δ)-W‖/‖δ‖ */;
  int64_t changed;
  int64_t masked,
      filled; /* entries that a mask had dropped, and those of them that are not 0 in the result */
} lc_merge_row;
typedef struct {
  lc_merge_row *row;
  int n;
} lc_merge_report;
void lc_merge_report_free(lc_ctx *, lc_merge_report *);
lc_status lc_net_write_hf(lc_net *, const char *dir, lc_dtype,
                          lc_merge_report * /* may be NULL */); /* config, weights, tokenizer files */
/* The type that a net's result has unless told: that of the base's linear weights, bf16 when they are quantised. */
lc_dtype lc_net_file_type(const lc_net *);
lc_status lc_net_write_gguf(lc_net *, const char *path, lc_dtype, lc_merge_report *);
#endif
