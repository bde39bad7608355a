/* config: what the family files share to read a configuration, from JSON or GGUF metadata, and to write it
 * again. Inside src/model only. */
#ifndef LC_MODEL_CONFIG_H
#define LC_MODEL_CONFIG_H
#include "model/model.h"

/* Reads members of a JSON object with a sticky error: after the first, calls return the default (the least
 * possible number where there is none) and `st` holds the status. Every sentence begins with `path`. `where`
 * is put before keys of an inner object
 * ("rope_parameters."). */
typedef struct {
  lc_ctx *ctx;
  const char *path, *where;
  const struct json_t *j;
  lc_status st;
} lc_reader;

#define LC_REQUIRED INT64_MIN /* as `def` of an integer: it has to be there */
/* null counts as missing */
int64_t lc_read_int(lc_reader *, const char *key, int64_t def, int64_t min, int64_t max);
double lc_read_num(lc_reader *, const char *key, double def /* NAN: required */, double min, double max);
bool lc_read_bool(lc_reader *, const char *key, bool def);
const char *lc_read_str(lc_reader *, const char *key, const char *def); /* borrowed */
/* an id, or the first of a list; -1 when missing or null */
int32_t lc_read_token(lc_reader *, const char *key);

/* A feature that changes the mathematics and is not built: refused by name unless the key is missing, null,
 * false, empty, or equals `ok` (a number, NAN: none; or a string, NULL: none). */
typedef struct {
  const char *key;
  double ok;
  const char *ok_text;
} lc_refusal;
void lc_read_refuse(lc_reader *, const lc_refusal *table, int n);
/* A name of transformers' ACT2FN. */
lc_activation_kind lc_read_activation(lc_reader *, const char *key, const char *def);
/* Dropout is off here (its rates are 0 in evaluation): a rate that is not zero is said in the log. */
void lc_read_dropout(lc_reader *, const char *const *keys, int n);

/* The rotary embedding of a HF configuration, in both spellings: rope_parameters {rope_type, rope_theta, …},
 * or rope_scaling and rope_theta. Needs config->D and config->context. */
void lc_read_rope(lc_reader *, lc_config *);
/* Its JSON in today's spelling. NULL (error set): it has none, as a GGUF's table of factors that no rope type
 * makes. */
struct json_t *lc_rope_json(lc_ctx *, const lc_rope *);
/* cos and sin are scaled by this in yarn (attention_factor, or what follows from factor, mscale and
 * mscale_all_dim). */
double lc_rope_attention_factor(const lc_rope *);
/* Divisors of the dim/2 frequencies, as llama.cpp stores llama3's scaling in rope_freqs.weight. False: none
 * are needed. */
bool lc_rope_factors(const lc_rope *, float *factors);
lc_status lc_rope_from_gguf(lc_ctx *, const lc_gguf *, const char *arch, lc_config *);
lc_status lc_rope_to_gguf(lc_ctx *, const lc_rope *, const char *arch, lc_gguf_writer *);

/* "<arch>.<name>" in a buffer of the caller's. */
typedef struct {
  char text[96];
} lc_key;
lc_key lc_arch_key(const char *arch, const char *name);

/* The largest count that a configuration may ask for of anything; layers have their own. */
enum { LC_MAX_LAYERS = 4096 };
#define LC_MAX_COUNT INT32_MAX

/* One projection back into the residual stream: W·x + residual, or, when someone listens, with the tap
 * between the two. */
lc_val lc_project(lc_builder *, lc_val x, lc_val residual, lc_tap_point, const char *fmt, int layer);

/* head.c: the task, its labels and the configuration's JSON for it, as the files or the caller have it. */
lc_status lc_head_resolve(lc_ctx *, const char *path, const lc_head_opts *, lc_config *);
/* "<module>.weight" M×N and, with bias, "<module>.bias": a head, which may be new. */
void lc_declare_head(lc_decls *, int64_t M, int64_t N, const char *module, bool bias);
lc_status lc_head_draw(lc_ctx *, const lc_tensor_decl *, uint64_t seed, float **out);

/* The sizes of a tensor in an HF file; returns their number. */
int lc_decl_shape(const lc_tensor_decl *, int64_t shape[4]);

/* structures: grows a list; sticky error */
typedef struct {
  lc_structure *s;
  int n, cap;
  lc_ctx *ctx;
  lc_status st;
} lc_structure_list;
void lc_structure_begin(lc_structure_list *, lc_structure_kind, int layer, int64_t count);
/* adds a side to the last one begun */
void lc_structure_side(lc_structure_list *, const char *fmt, int layer, int axis, int64_t first,
                       int64_t unit);
void lc_structure_role(lc_structure_list *, lc_role); /* of the side added last */
/* hands the list over, or frees it on an error */
lc_status lc_structure_end(lc_structure_list *, lc_structure **, int *n);
#endif
