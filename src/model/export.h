/* What the two writers of whole models share. Inside src/model only. */
#ifndef LC_MODEL_EXPORT_H
#define LC_MODEL_EXPORT_H
#include "model/model.h"

typedef lc_status (*lc_append_fn)(void *to, const void *data, size_t bytes);
typedef struct {
  lc_net *net;
  const lc_tensor_decl *decl;
  lc_dtype dtype;      /* in the file */
  bool transposed;     /* file rows are logical columns */
  int64_t head_dim;    /* > 0: rows of each head are interleaved in the file (GGUF's q and k) */
  lc_append_fn append; /* receives the tensor's bytes in order */
  void *to;
  lc_merge_report *report; /* a row is added for a weight that has changed; or NULL */
} lc_export;
/* Streams one tensor: Weff = round(f32(base) + Σ scale·δ), strip by strip. */
lc_status lc_export_tensor(const lc_export *);
/* Refuses, before anything is written: a delta that cannot be merged, and the base itself as target. */
lc_status lc_export_check(const lc_net *, const char *target);
/* Everything in config.json, in the spelling of today's transformers. */
struct json_t *lc_export_config(const lc_net *, lc_dtype);
#endif
