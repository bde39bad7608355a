/* Checkpoints: everything that a run needs to go on as if it had never stopped.
 *
 *   checkpoint-N/state.safetensors   every array that the visitors name: values, positions, optimiser columns
 * of each trainable, and the method's own checkpoint-N/state.json          step, tokens, schedule, best,
 * identity (identity.c), numerics, a CRC-32 an array checkpoint-N/…                   the result as of then,
 * by the method: the directory works as an adapter or model
 *
 * It is written into a hidden directory, each file flushed, then renamed: it is whole or not there. The
 * history is flushed before the rename, so it always knows at least as much as the newest checkpoint.
 *
 * The CRCs are compared when a checkpoint is opened, so that a damaged file is named before anything of it is used.
 * Loading writes into the arrays that attach has made: each must be there with the type and length of now. Positions
 * are looked at before a tile is: what does not ascend, or lies outside its weight, is refused; what only a method knows,
 * it checks itself (`loaded`). Counts that no run reaches are refused, so that sums of them do not overflow.
 *
 * Memory: the context keeps freed blocks while it saves (lc_mem_keep), and a rehearsal before step 1 makes
 * the first set of them (and finds out then, not hours later, when the disk is full or read-only). */
#include "train/internal.h"
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#define HIDDEN_DIR ".lacuna-new"
static const int64_t most_updates = (int64_t)LC_MAX_PHASES * 1000000000000, most_count = (int64_t)1 << 53;

/* ---- arrays by visitors
 * --------------------------------------------------------------------------------------------- */

typedef struct {
  lc_ctx *ctx;
  const char *path;
  lc_safetensors_writer *w;
  const lc_safetensors *from;
  json_t *crc;
  int64_t count;
  size_t width; /* of a value: wide ones lie first, so that all are aligned */
} arrays;

static lc_status visit_all(lc_loop *l, lc_visitor *v) {
  for (int i = 0; i < l->t.n_param; i++) LC_TRY(lc_param_visit(l->t.param[i], v));
  LC_TRY(lc_goal_visit(l, v));
  return l->t.method->visit ? l->t.method->visit(l->t.self, v) : LC_OK;
}

static bool other_width(const arrays *a, lc_dtype dtype) {
  size_t width;
  return !lc_dtype_bytes(dtype, 1, &width) || width != a->width;
}

static lc_status declare(lc_visitor *v, const char *name, lc_dtype dtype, int64_t n, void *data) {
  if (other_width(v->self, dtype)) return LC_OK;
  return lc_safetensors_declare(((arrays *)v->self)->w, name, dtype, 1, &n);
}

static lc_status append(lc_visitor *v, const char *name, lc_dtype dtype, int64_t n, void *data) {
  if (other_width(v->self, dtype)) return LC_OK;
  arrays *a = v->self;
  size_t bytes;
  if (!lc_dtype_bytes(dtype, n, &bytes)) return lc_fail(a->ctx, "%s: '%s' is too large", a->path, name);
  json_object_set_new(a->crc, name, json_integer((json_int_t)crc32_z(0, data, bytes)));
  return lc_safetensors_append(a->w, data, bytes);
}

static lc_status write_arrays(lc_loop *l, const char *path, json_t *crc) {
  lc_ctx *ctx = l->t.ctx;
  arrays a = {.ctx = ctx, .path = path, .crc = crc};
  lc_visitor v = {.self = &a, .array = declare};
  LC_TRY(lc_safetensors_create(ctx, path, &a.w));
  lc_status st = LC_OK;
  for (a.width = 8; a.width && !st; a.width /= 2) st = visit_all(l, &v);
  v.array = append;
  for (a.width = 8; a.width && !st; a.width /= 2) st = visit_all(l, &v);
  lc_status end = lc_safetensors_finish(a.w, st == LC_OK);
  return st ? st : end;
}

/* Compares an array of the file with what the run has room for, without changing anything. */
static lc_status inspect(lc_visitor *v, const char *name, lc_dtype dtype, int64_t n, void *data) {
  arrays *a = v->self;
  size_t bytes;
  const lc_tensor *t = lc_safetensors_find(a->from, name);
  a->count++;
  if (!t) return lc_fail(a->ctx, "%s: '%s' is missing", a->path, name);
  if (t->dtype != dtype || lc_tensor_count(t) != n || !lc_dtype_bytes(dtype, n, &bytes))
    return lc_fail(a->ctx, "%s: '%s' has %lld values of %s, expected %lld of %s", a->path, name,
                   (long long)lc_tensor_count(t), lc_dtype_get(t->dtype)->name, (long long)n,
                   lc_dtype_get(dtype)->name);
  const int64_t *count = t->data; /* of 64 bits are counts and positions alone; -1: none yet */
  for (int64_t k = 0; dtype == LC_I64 && k < n; k++)
    if (count[k] < -1 || count[k] > most_count)
      return lc_fail(a->ctx, "%s: '%s' has %lld where a count or a position belongs", a->path, name,
                     (long long)count[k]);
  return LC_OK;
}

static lc_status take(lc_visitor *v, const char *name, lc_dtype dtype, int64_t n, void *data) {
  const lc_tensor *t = lc_safetensors_find(((arrays *)v->self)->from, name);
  size_t bytes;
  if (lc_dtype_bytes(dtype, n, &bytes) && bytes) memcpy(data, t->data, bytes); /* of none, data may be NULL */
  return LC_OK;
}

static lc_status verify(lc_loop *l, const char *path) {
  const json_t *crc = json_object_get(l->restored, "crc32");
  for (int i = 0; i < l->stored.n; i++) {
    const lc_named_tensor *a = &l->stored.tensor[i];
    const json_t *want = json_object_get(crc, a->name);
    size_t bytes;
    if (!want || !lc_dtype_bytes(a->t.dtype, lc_tensor_count(&a->t), &bytes) ||
        json_integer_value(want) != (json_int_t)crc32_z(0, a->t.data, bytes))
      return lc_fail(l->t.ctx, "%s: '%s' is damaged: its checksum differs from state.json's", path, a->name);
  }
  return LC_OK;
}

static lc_status check_param(lc_ctx *ctx, const lc_param *p) {
  LC_TRY(lc_index_check(ctx, &p->idx, p->rows, p->cols, p->name));
  LC_TRY(lc_index_check(ctx, &p->retired, p->rows, p->cols, p->name));
  for (int64_t k = 0, at = 0; k < p->retired.n; k++) {
    const int64_t flat = lc_index_at(&p->retired, k);
    at = lc_index_lower(&p->idx, at, flat);
    if (at < p->n && lc_index_at(&p->idx, at) == flat)
      return lc_fail(ctx, "position %lld of '%s' is trained and retired at once", (long long)flat, p->name);
  }
  return LC_OK;
}

/* What was loaded means what it should: positions of trainables, what a kind of delta knows of its own arrays, and the
 * method of its. */
static lc_status check_loaded(lc_loop *l) {
  lc_training *t = &l->t;
  for (int i = 0; i < t->n_param; i++) LC_TRY(check_param(t->ctx, t->param[i]));
  for (int i = 0; i < t->net->weights.n; i++) /* candidates of SpIEL's are no trainables yet */
    for (int k = 0; k < t->net->weights.w[i].n_sink; k++) {
      const lc_param *p = t->net->weights.w[i].sink[k].param;
      if (p) LC_TRY(lc_index_check(t->ctx, &p->idx, p->rows, p->cols, p->name));
    }
  for (int i = 0; t->adapter && i < t->adapter->n; i++) {
    lc_delta *d = t->adapter->delta[i];
    const lc_delta_kind *k = lc_delta_kind_of(d->ops);
    if (k && k->loaded) LC_TRY(k->loaded(t->ctx, d));
  }
  return t->method->loaded ? t->method->loaded(t->self, t) : LC_OK;
}

/* Private copies that hold deltas in place follow the loaded values. */
static lc_status refresh_copies(lc_loop *l) {
  for (int i = 0; i < l->t.net->weights.n; i++) {
    lc_weight *w = &l->t.net->weights.w[i];
    bool in_place = false;
    for (int d = 0; d < w->n_delta; d++) in_place |= w->delta[d]->apply == LC_IN_PLACE;
    if (in_place) LC_TRY(lc_weight_refresh(l->t.ctx, w));
  }
  return LC_OK;
}

lc_status lc_checkpoint_arrays(lc_loop *l) {
  lc_ctx *ctx = l->t.ctx;
  lc_status st = LC_FAILED;
  char *path = lc_path_join(ctx, l->from, "state.safetensors");
  if (!path) return LC_FAILED;
  arrays a = {.ctx = ctx, .path = path, .from = &l->stored};
  lc_visitor v = {.self = &a, .array = inspect};
  LC_GO(visit_all(l, &v));
  if (a.count != l->stored.n) {
    st = lc_fail(ctx, "%s: %d arrays, the run has %lld", path, l->stored.n, (long long)a.count);
    goto done;
  }
  v.array = take;
  LC_GO(lc_in_file(ctx, path, visit_all(l, &v)));
  LC_GO(lc_in_file(ctx, path, check_loaded(l)));
  LC_GO(refresh_copies(l));
done:
  lc_free(ctx, path);
  return st;
}

/* ---- state.json
 * ------------------------------------------------------------------------------------------------------ */

static json_t *state_json(const lc_loop *l, json_t *crc) {
  const lc_training *t = &l->t;
  json_t *s = json_pack("{s:s, s:i, s:I, s:I, s:I, s:b, s:f, s:f, s:o}", "format", "lacuna-checkpoint",
                        "version", 1, "step", (json_int_t)t->step, "tokens", (json_int_t)t->tokens, "planned",
                        (json_int_t)t->planned, "evaluated", l->evaluated, "loss", t->loss, "seconds",
                        l->seconds_before + lc_now() - l->started, "numerics", lc_numerics(l));
  json_object_set_new(s, "phase",
                      json_pack("{s:i, s:I, s:I}", "number", t->phase, "first", (json_int_t)t->phase_first,
                                "optimizer_first", (json_int_t)t->optimizer_first));
  json_object_set_new(s, "schedule",
                      json_pack("{s:i, s:I, s:I}", "kind", (int)t->schedule.kind, "planned",
                                (json_int_t)t->schedule.planned, "warmup", (json_int_t)t->schedule.warmup));
  if (l->best_step >= 0)
    json_object_set_new(s, "best",
                        json_pack("{s:I, s:f}", "step", (json_int_t)l->best_step, "loss", l->best_loss));
  json_object_set(s, "identity", l->identity);
  json_object_set(s, "crc32", crc);
  return s;
}

static lc_status warn_numerics(lc_loop *l, const json_t *was) {
  json_t *now = lc_numerics(l), *value;
  const char *key;
  json_object_foreach(now, key, value) {
    const char *old = json_string_value(json_object_get(was, key)), *is = json_string_value(value);
    if (old && is && strcmp(old, is))
      lc_log(l->t.ctx, LC_LOG_WARN, "%s was written with %s %s and goes on with %s: the bits may differ",
             l->from, key, old, is);
  }
  json_decref(now);
  return LC_OK;
}

/* An object of state.json; NULL: it has none. */
static lc_status restored_object(const lc_loop *l, const char *path, const char *key, const json_t **out) {
  *out = json_object_get(l->restored, key);
  if (json_is_null(*out)) *out = NULL;
  return !*out || json_is_object(*out) ? LC_OK : lc_fail(l->t.ctx, "%s: '%s' is no object", path, key);
}

static lc_status restore_counts(lc_loop *l) {
  lc_ctx *ctx = l->t.ctx;
  lc_training *t = &l->t;
  LC_TRY(lc_json_i64_or(ctx, l->restored, "step", -1, &t->step));
  LC_TRY(lc_json_i64_or(ctx, l->restored, "tokens", 0, &t->tokens));
  LC_TRY(lc_json_bool_or(ctx, l->restored, "evaluated", false, &l->evaluated));
  LC_TRY(lc_json_f64_or(ctx, l->restored, "loss", 0, &t->loss));
  LC_TRY(lc_json_f64_or(ctx, l->restored, "seconds", 0, &l->seconds_before));
  if (t->step < 0 || t->step > most_updates || t->tokens < 0 || t->tokens > most_count)
    return lc_fail(ctx, "step %lld and %lld tokens are no counts of a run", (long long)t->step,
                   (long long)t->tokens);
  return LC_OK;
}

static lc_status restore_best(lc_loop *l, const char *path) {
  lc_ctx *ctx = l->t.ctx;
  const json_t *best;
  LC_TRY(restored_object(l, path, "best", &best));
  if (!best) return LC_OK;
  LC_TRY(lc_in_file(ctx, path, lc_json_i64_or(ctx, best, "step", -1, &l->best_step)));
  LC_TRY(lc_in_file(ctx, path, lc_json_f64_or(ctx, best, "loss", NAN, &l->best_loss)));
  if (l->best_step < 0 || l->best_step > l->t.step || isnan(l->best_loss))
    return lc_fail(ctx, "%s: the best evaluation was of update %lld of %lld, with a loss of %g", path,
                   (long long)l->best_step, (long long)l->t.step, l->best_loss);
  return LC_OK;
}

/* A checkpoint of a program that knew one phase only names none. */
static lc_status restore_phase(lc_loop *l, const char *path) {
  lc_training *t = &l->t;
  const json_t *p;
  int64_t number = 0;
  LC_TRY(restored_object(l, path, "phase", &p));
  if (!p) return LC_OK;
  LC_TRY(lc_in_file(t->ctx, path, lc_json_i64_or(t->ctx, p, "number", 0, &number)));
  LC_TRY(lc_in_file(t->ctx, path, lc_json_i64_or(t->ctx, p, "first", 0, &t->phase_first)));
  LC_TRY(lc_in_file(t->ctx, path, lc_json_i64_or(t->ctx, p, "optimizer_first", 0, &t->optimizer_first)));
  if (number < 0 || number >= t->n_phases || t->phase_first < 0 || t->phase_first > t->step ||
      (number == 0 && t->phase_first > 0) || t->optimizer_first < t->phase_first ||
      t->optimizer_first > t->step)
    return lc_fail(t->ctx, "%s: phase %lld of %d, begun after update %lld", path, (long long)number,
                   t->n_phases, (long long)t->phase_first);
  t->phase = (int)number;
  return LC_OK;
}

static lc_status open_stored(lc_loop *l) {
  char *path = lc_path_join(l->t.ctx, l->from, "state.safetensors");
  lc_status st = path ? lc_safetensors_open(l->t.ctx, path, &l->stored) : LC_FAILED;
  if (!st) st = verify(l, path);
  lc_free(l->t.ctx, path);
  return st;
}

/* lc_training is the loop's first member. */
const lc_tensor *lc_training_stored(const lc_training *t, const char *name) {
  const lc_loop *l = (const lc_loop *)(const void *)t;
  return t->resuming ? lc_safetensors_find(&l->stored, name) : NULL;
}

lc_status lc_checkpoint_state(lc_loop *l) {
  lc_ctx *ctx = l->t.ctx;
  lc_training *t = &l->t;
  char *path = lc_path_join(ctx, l->from, "state.json");
  lc_status st = path ? lc_json_read(ctx, path, &l->restored) : LC_FAILED;
  if (st) goto done;
  const char *format;
  int64_t version;
  LC_GO(lc_in_file(ctx, path, lc_json_str_or(ctx, l->restored, "format", "", &format)));
  LC_GO(lc_in_file(ctx, path, lc_json_i64_or(ctx, l->restored, "version", 0, &version)));
  if (strcmp(format, "lacuna-checkpoint") || version != 1) {
    st = lc_fail(ctx, "%s: not a checkpoint of this program (format '%s', version %lld)", path, format,
                 (long long)version);
    goto done;
  }
  LC_GO(lc_identity_check(l, json_object_get(l->restored, "identity"), path));
  LC_GO(lc_in_file(ctx, path, restore_counts(l)));
  LC_GO(restore_phase(l, path));
  LC_GO(restore_best(l, path));
  LC_GO(open_stored(l));
  l->saved_step = t->step;
  st = warn_numerics(l, json_object_get(l->restored, "numerics"));
done:
  lc_free(ctx, path);
  return st;
}

/* ---- saving
 * ----------------------------------------------------------------------------------------------------------
 */

static lc_status write_state(lc_loop *l, const char *dir) {
  lc_ctx *ctx = l->t.ctx;
  json_t *crc = json_object(), *state = NULL;
  char *arrays_path = lc_path_join(ctx, dir, "state.safetensors"),
       *state_path = lc_path_join(ctx, dir, "state.json");
  lc_status st = arrays_path && state_path && crc ? LC_OK : LC_FAILED;
  if (!st) st = write_arrays(l, arrays_path, crc);
  if (!st && !(state = state_json(l, crc))) st = lc_fail(ctx, "%s: out of memory", state_path);
  if (!st) st = lc_json_write(ctx, state_path, state);
  json_decref(state);
  json_decref(crc);
  lc_free(ctx, arrays_path);
  lc_free(ctx, state_path);
  return st;
}

/* Writes OUT/.lacuna-new: the state (when asked) and the result. On failure nothing of it is left. */
static lc_status write_hidden(lc_loop *l, bool state) {
  lc_ctx *ctx = l->t.ctx;
  char *dir = lc_path_join(ctx, l->t.out, HIDDEN_DIR);
  lc_status st = dir ? lc_remove_tree(ctx, dir) : LC_FAILED;
  if (!st) st = lc_mkdirs(ctx, dir);
  if (!st && l->t.method->save) st = l->t.method->save(l->t.self, &l->t, dir);
  if (!st && state) st = write_state(l, dir);
  if (st && dir) {
    char *why = lc_strdup(ctx, lc_error(ctx));
    lc_remove_tree(ctx, dir);
    if (why) lc_fail(ctx, "%s", why); /* the first sentence stands */
    lc_free(ctx, why);
  }
  lc_free(ctx, dir);
  return st;
}

lc_status lc_checkpoint_save(lc_loop *l, char **path) {
  lc_ctx *ctx = l->t.ctx;
  lc_status st = LC_OK;
  char name[40];
  snprintf(name, sizeof name, "checkpoint-%lld", (long long)l->t.step);
  lc_mem_keep(ctx, true);
  *path = lc_path_join(ctx, l->t.out, name);
  if (!*path) LC_GO(LC_FAILED);
  LC_GO(lc_history_flush(l->t.history));
  LC_GO(write_hidden(l, true));
  LC_GO(lc_outdir_replace(ctx, l->t.out, HIDDEN_DIR, name));
  l->saved_step = l->t.step;
  LC_GO(lc_outdir_prune(ctx, l->t.out, lc_max64(1, l->t.opts.keep)));
done:
  lc_mem_keep(ctx, false);
  return st;
}

lc_status lc_checkpoint_best(lc_loop *l) {
  lc_ctx *ctx = l->t.ctx;
  lc_mem_keep(ctx, true);
  json_t *best = json_pack("{s:I, s:f}", "step", (json_int_t)l->best_step, "loss", l->best_loss);
  lc_status st = write_hidden(l, false);
  char *path = st ? NULL : lc_format(ctx, "%s/" HIDDEN_DIR "/best.json", l->t.out);
  if (!st) st = path ? lc_json_write(ctx, path, best) : LC_FAILED;
  if (!st) st = lc_outdir_replace(ctx, l->t.out, HIDDEN_DIR, "best");
  lc_free(ctx, path);
  json_decref(best);
  lc_mem_keep(ctx, false);
  return st;
}

/* Held during the rehearsal and then kept: later names are longer than the rehearsal's, and a few more live
 * at once. */
enum { SPARE = 16, SPARE_BYTES = 448 };

lc_status lc_checkpoint_rehearse(lc_loop *l) {
  lc_ctx *ctx = l->t.ctx;
  lc_mem_keep(ctx, true);
  lc_status st = LC_OK;
  void *spare[SPARE];
  for (int i = 0; i < SPARE; i++)
    if (!(spare[i] = lc_alloc(ctx, LC_MEM_OTHER, SPARE_BYTES))) st = LC_FAILED;
  if (!st) st = write_hidden(l, true);
  if (!st) st = lc_outdir_sweep(ctx, l->t.out);
  for (int i = 0; i < SPARE; i++) lc_free(ctx, spare[i]);
  lc_mem_keep(ctx, false);
  return st;
}
