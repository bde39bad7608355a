/* What the adapter files share: reading gathers detached deltas first, so that nothing has changed when
 * something fails. */
#ifndef LC_ADAPTER_H
#define LC_ADAPTER_H
#include <jansson.h>
#include "model/model.h"

#define LC_SIDECAR     "lacuna_adapter.json"
#define LC_NATIVE_FILE "lacuna_adapter.safetensors"
#define LC_HEAD_FILE   "lacuna_head.safetensors"
#define LC_LOG_FILE    "lacuna_adapter.log"
#define LC_PEFT_CONFIG "adapter_config.json"
#define LC_PEFT_FILE   "adapter_model.safetensors"

typedef struct {
  lc_net *net;
  const char *dir;
  lc_delta **delta;
  int n, cap;     /* made, attached to nothing */
  lc_whole *head; /* whole weights of the head */
  int n_head;
  json_t *config; /* PEFT's */
  bool exact_base;
  const char *config_path; /* while it is read */
} lc_adapter_parts;
lc_status lc_parts_add(lc_adapter_parts *, lc_delta *); /* takes it over, also on failure */

/* adapter_peft.c */
lc_status lc_peft_read(lc_adapter_parts *);
lc_status lc_peft_write_lora(const lc_adapter *, const char *dir, const lc_adapter_meta *);
/* adapter_peft_shira.c */
lc_status lc_peft_read_shira(lc_adapter_parts *, const char *path, const lc_safetensors *);
lc_status lc_peft_write_shira(const lc_adapter *, const char *dir, const lc_adapter_meta *);
/* adapter_native.c */
lc_status lc_native_read(lc_adapter_parts *);
lc_status lc_native_write(const lc_adapter *, const char *dir);
/* adapter_modules.c */
lc_status lc_modules_read(lc_adapter_parts *, const char *json_path, const json_t *, const char *path,
                          const lc_safetensors *);
json_t *lc_modules_describe(const lc_adapter *); /* "deltas" of lacuna_adapter.json */
lc_status lc_modules_write(const lc_adapter *, const char *dir);
/* adapter_log.c */
lc_status lc_log_read(lc_adapter_parts *);
json_t *lc_log_describe(const lc_adapter *); /* "log" of lacuna_adapter.json */
lc_status lc_log_write(const lc_adapter *, const char *dir);

/* peft_match.c: which modules an adapter_config.json means, and the values its patterns give them. */
lc_status lc_peft_matches(lc_ctx *, const json_t *config, const char *model_type, const char *module,
                          bool head, bool *out);
lc_status lc_peft_pattern(lc_ctx *, const json_t *pattern, const char *module, double otherwise,
                          double *out); /* first key that matches */
json_t *
lc_peft_targets(const lc_adapter
                    *); /* the shortest suffixes that name its weights and no other matrix; NULL: no memory */

/* adapter_head.c: the head's whole weights beside the deltas. */
bool lc_adapter_has_head(const lc_adapter *);
lc_status lc_head_declare(const lc_adapter *, lc_safetensors_writer *);
lc_status lc_head_append(const lc_adapter *, lc_safetensors_writer *);
lc_status lc_head_write(const lc_adapter *,
                        const char *dir);    /* a file of their own; none when there are none */
json_t *lc_head_modules(const lc_adapter *); /* PEFT's modules_to_save */
void lc_head_describe(const lc_adapter *, json_t *sidecar);
const char *lc_head_task_type(const lc_net *);              /* PEFT's task_type */
lc_weight *lc_head_weight(const lc_net *, const char *key); /* of "base_model.model.<name>"; or NULL */
lc_status lc_head_read(lc_adapter_parts *, const char *path, const lc_named_tensor *);
lc_status lc_head_read_file(lc_adapter_parts *);
lc_status lc_head_check_modules(const lc_net *, const char *dir, const json_t *modules_to_save);
lc_status lc_head_apply(lc_adapter *, bool on);
void lc_wholes_free(lc_ctx *, lc_whole *, int n);

/* Helpers of both PEFT kinds. */
lc_weight *lc_peft_weight(const lc_net *, const char *key, const char *suffix, char *module,
                          size_t size); /* of "base_model.model.<module><suffix>", or NULL */
/* Checks that the tensors' modules are the config's targets: has[i] says whether weights.w[i] has tensors. */
lc_status lc_peft_check_targets(const lc_adapter_parts *, const bool *has);
/* n f32 values of an F32, F16 or BF16 tensor, finite; lc_free. */
lc_status lc_peft_values(lc_ctx *, const char *path, const lc_named_tensor *, float **out);
lc_status lc_peft_common(json_t *config, const lc_adapter *, const lc_adapter_meta *);
bool lc_adapter_is_conv1d(const lc_net *, const lc_weight *);
#endif
