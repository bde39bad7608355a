/* An adapter that is a log of steps along random directions (nn/noise.h): 16 bytes a direction, whatever the model's size. docs/formats.md
 * describes it.
 *
 * lacuna_adapter.json has "layout": "log" and "log": {seed, sparsity, decay, mask, records, moves: [module path]}; lacuna_adapter.log the records,
 * little-endian: u32 step, f32 slope, f32 rate, u32 check. A file of another length than the records say, or a record whose check does not
 * follow from the options and the records before it, is refused. The model's weights after the steps follow from the base's, so another base
 * gives another result: the fingerprint's warning (adapter.c) is to be taken seriously here. */
#include <string.h>
#include "model/adapter.h"
#include "nn/noise.h"

static const char *const masks[] = {"all", "small", "random", "large"};

/* ---- reading ---- */

static lc_status read_options(lc_ctx *ctx, const char *path, const json_t *j, lc_noise_opts *o,
                              int64_t *records) {
  const json_t *seed = json_object_get(j, "seed"), *sparsity = json_object_get(j, "sparsity"),
               *decay = json_object_get(j, "decay"), *n = json_object_get(j, "records");
  const char *mask = json_string_value(json_object_get(j, "mask"));
  if (!json_is_integer(seed) || !json_is_number(sparsity) || !json_is_number(decay) || !json_is_integer(n) ||
      json_integer_value(n) < 0 || !mask)
    return lc_fail(ctx, "%s: \"log\" lacks seed, sparsity, decay, mask or records", path);
  *o = (lc_noise_opts){.seed = json_integer_value(seed),
                       .sparsity = json_number_value(sparsity),
                       .decay = json_number_value(decay),
                       .mask = -1};
  for (int i = 0; i < (int)(sizeof masks / sizeof *masks); i++)
    if (!strcmp(mask, masks[i])) o->mask = i;
  if (o->mask < 0) return lc_fail(ctx, "%s: mask '%s' is unknown", path, mask);
  *records = json_integer_value(n);
  return LC_OK;
}

static lc_status read_records(lc_ctx *ctx, const char *path, int64_t records, const lc_noise_opts *o,
                              lc_noise_log **out) {
  char *data = NULL;
  size_t size = 0;
  if (records > INT64_MAX / 32) return lc_fail(ctx, "%s: %lld records cannot be", path, (long long)records);
  LC_TRY(lc_read_file(ctx, path, (size_t)records * sizeof(lc_noise_step) + 64, &data, &size));
  lc_status st = LC_OK;
  if (size != (size_t)records * sizeof(lc_noise_step))
    LC_GO(lc_fail(ctx, "%s: %zu bytes, %lld records have %zu: the log is not whole", path, size,
                  (long long)records, (size_t)records * sizeof(lc_noise_step)));
  LC_GO(lc_noise_log_new(ctx, o, records, out));
  memcpy((*out)->at, data, size);
  (*out)->n = records;
  LC_GO(lc_in_file(ctx, path, lc_noise_log_verify(*out)));
done:
  lc_free(ctx, data);
  if (st) {
    lc_noise_log_drop(*out);
    *out = NULL;
  }
  return st;
}

static lc_status read_moves(lc_adapter_parts *p, const char *path, const json_t *moves, lc_noise_log *log) {
  lc_ctx *ctx = p->net->ctx;
  char name[700];
  if (!json_array_size(moves)) return lc_fail(ctx, "%s: \"moves\" names no module", path);
  for (size_t i = 0; i < json_array_size(moves); i++) {
    const char *module = json_string_value(json_array_get(moves, i));
    snprintf(name, sizeof name, "%s.weight", module ? module : "");
    lc_weight *w = lc_net_weight(p->net, name);
    lc_delta *d;
    if (!w || w->ndim != 2)
      return lc_fail(ctx, "%s: the model has no matrix '%s'", path, module ? module : "");
    for (int k = 0; k < p->n; k++)
      if (p->delta[k]->w == w) return lc_fail(ctx, "%s: '%s' is there twice", path, module);
    LC_TRY(lc_delta_noise_new(ctx, w, log, &d));
    LC_TRY(lc_parts_add(p, d));
  }
  return LC_OK;
}

lc_status lc_log_read(lc_adapter_parts *p) {
  lc_ctx *ctx = p->net->ctx;
  json_t *j = NULL;
  lc_noise_log *log = NULL;
  lc_noise_opts o;
  int64_t records = 0;
  lc_status st = LC_OK;
  char *json_path = lc_path_join(ctx, p->dir, LC_SIDECAR), *path = lc_path_join(ctx, p->dir, LC_LOG_FILE);
  if (!json_path || !path) LC_GO(LC_FAILED);
  LC_GO(lc_json_read(ctx, json_path, &j));
  LC_GO(read_options(ctx, json_path, json_object_get(j, "log"), &o, &records));
  LC_GO(read_records(ctx, path, records, &o, &log));
  st = read_moves(p, json_path, json_object_get(json_object_get(j, "log"), "moves"), log);
done:
  lc_noise_log_drop(log);
  json_decref(j);
  lc_free(ctx, json_path);
  lc_free(ctx, path);
  return st;
}

/* ---- writing ---- */

json_t *lc_log_describe(const lc_adapter *a) {
  const lc_noise_log *l = lc_delta_noise_log(a->delta[0]);
  json_t *moves = json_array();
  for (int i = 0; i < a->n && moves; i++) json_array_append_new(moves, json_string(a->delta[i]->w->module));
  return json_pack("{s:I, s:f, s:f, s:s, s:I, s:o}", "seed", (json_int_t)l->o.seed, "sparsity", l->o.sparsity,
                   "decay", l->o.decay, "mask", masks[l->o.mask], "records", (json_int_t)l->n, "moves",
                   moves);
}

lc_status lc_log_write(const lc_adapter *a, const char *dir) {
  lc_ctx *ctx = a->net->ctx;
  const lc_noise_log *l = lc_delta_noise_log(a->delta[0]);
  for (int i = 1; i < a->n; i++)
    if (lc_delta_noise_log(a->delta[i]) != l)
      return lc_fail(ctx, "adapter '%s' stands on two logs of steps: a file holds one", a->name);
  char *path = lc_path_join(ctx, dir, LC_LOG_FILE);
  lc_status st = path ? lc_write_file(ctx, path, l->at, (size_t)l->n * sizeof *l->at) : LC_FAILED;
  lc_free(ctx, path);
  return st;
}
