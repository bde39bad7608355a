/* Reads a run's history. The file may be damaged or of another program: every failure is one sentence with its name. */
#include "cli/report.h"
#include <math.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>

enum { SCHEMA = 1, MOST_ROWS = 1 << 24 };

typedef struct {
  lc_ctx *ctx;
  const char *path;
  sqlite3 *db;
} reader;

static lc_status broken(const reader *r) {
  return lc_fail(r->ctx, "%s: %s", r->path, sqlite3_errmsg(r->db));
}

static double real(sqlite3_stmt *q, int i) {
  return sqlite3_column_type(q, i) == SQLITE_NULL ? NAN : sqlite3_column_double(q, i);
}

static lc_status text(lc_ctx *ctx, sqlite3_stmt *q, int i, char **out) {
  const char *s = (const char *)sqlite3_column_text(q, i);
  *out = lc_strdup(ctx, s ? s : "");
  return *out ? LC_OK : LC_FAILED;
}

/* ---- a row each ---- */

static lc_status read_step(lc_ctx *ctx, sqlite3_stmt *q, void *row) {
  lc_report_step *s = row;
  *s = (lc_report_step){.step = real(q, 0),
                        .loss = real(q, 1),
                        .lr = real(q, 2),
                        .grad_norm = real(q, 3),
                        .tokens_per_s = real(q, 4),
                        .rss_mib = real(q, 5),
                        .seconds = real(q, 6),
                        .tokens = sqlite3_column_int64(q, 7),
                        .targets = sqlite3_column_int64(q, 8)};
  return LC_OK;
}

static lc_status read_eval(lc_ctx *ctx, sqlite3_stmt *q, void *row) {
  lc_report_eval *e = row;
  *e = (lc_report_eval){.step = real(q, 0),
                        .loss = real(q, 1),
                        .perplexity = real(q, 2),
                        .targets = sqlite3_column_int64(q, 3)};
  return LC_OK;
}

static lc_status read_sample(lc_ctx *ctx, sqlite3_stmt *q, void *row) {
  lc_report_sample *s = row;
  s->step = sqlite3_column_int64(q, 0);
  LC_TRY(text(ctx, q, 1, &s->prompt));
  return text(ctx, q, 2, &s->text);
}

static lc_status read_tensor(lc_ctx *ctx, sqlite3_stmt *q, void *row) {
  lc_report_tensor *t = row;
  *t = (lc_report_tensor){.layer = sqlite3_column_type(q, 2) == SQLITE_NULL ? -1 : sqlite3_column_int(q, 2),
                          .rows = sqlite3_column_int64(q, 3),
                          .cols = sqlite3_column_int64(q, 4),
                          .changed = sqlite3_column_int64(q, 5),
                          .norm_delta = real(q, 6),
                          .norm_weight = real(q, 7),
                          .max_delta = real(q, 8)};
  LC_TRY(text(ctx, q, 0, &t->name));
  return text(ctx, q, 1, &t->module);
}

/* All rows of a query into an array that grows; *n counts the rows that own memory, also when it fails. */
static lc_status read_rows(const reader *r, const char *sql, size_t size,
                           lc_status (*one)(lc_ctx *, sqlite3_stmt *, void *), void **rows, int64_t *n) {
  sqlite3_stmt *q = NULL;
  lc_status st = LC_OK;
  int64_t cap = 0;
  int rc;
  if (sqlite3_prepare_v2(r->db, sql, -1, &q, NULL) != SQLITE_OK) return broken(r);
  while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
    if (*n == MOST_ROWS) {
      st = lc_fail(r->ctx, "%s: more than %d rows", r->path, MOST_ROWS);
      goto done;
    }
    if (*n == cap) {
      void *grown = lc_realloc(r->ctx, LC_MEM_OTHER, *rows, (size_t)(cap = cap ? 2 * cap : 64) * size);
      if (!grown) {
        st = LC_FAILED;
        goto done;
      }
      *rows = grown;
    }
    LC_GO(one(r->ctx, q, (char *)*rows + (size_t)(*n)++ * size));
  }
  if (rc != SQLITE_DONE) st = broken(r);
done:
  sqlite3_finalize(q);
  return st;
}

/* ---- the run itself ---- */

static lc_status read_run(const reader *r, lc_report *out) {
  sqlite3_stmt *q = NULL;
  lc_status st = LC_OK;
  char *summary = NULL;
  if (sqlite3_prepare_v2(
          r->db,
          "SELECT method, model, data, started, finished, version, planned, summary FROM runs WHERE id = 1",
          -1, &q, NULL) != SQLITE_OK)
    return broken(r);
  int rc = sqlite3_step(q);
  if (rc != SQLITE_ROW) {
    st = rc == SQLITE_DONE ? lc_fail(r->ctx, "%s: it holds no run", r->path) : broken(r);
    goto done;
  }
  char **field[] = {&out->method, &out->model, &out->data, &out->started, &out->finished, &out->version};
  for (int i = 0; i < 6; i++) LC_GO(text(r->ctx, q, i, field[i]));
  out->planned = sqlite3_column_int64(q, 6);
  LC_GO(text(r->ctx, q, 7, &summary));
  if (*summary && !(out->summary = json_loads(summary, 0, NULL)))
    st = lc_fail(r->ctx, "%s: the run's summary is not JSON", r->path);
done:
  lc_free(r->ctx, summary);
  sqlite3_finalize(q);
  return st;
}

static lc_status check_schema(const reader *r) {
  sqlite3_stmt *q = NULL;
  if (sqlite3_prepare_v2(r->db, "PRAGMA user_version", -1, &q, NULL) != SQLITE_OK) return broken(r);
  int rc = sqlite3_step(q), version = rc == SQLITE_ROW ? sqlite3_column_int(q, 0) : 0;
  sqlite3_finalize(q);
  if (rc != SQLITE_ROW) return broken(r);
  return version == SCHEMA ? LC_OK
                           : lc_fail(r->ctx, "%s: not a run's history (its version is %d, %d is expected)",
                                     r->path, version, SCHEMA);
}

static lc_status read_history(const reader *r, lc_report *out) {
  LC_TRY(check_schema(r));
  LC_TRY(read_run(r, out));
  LC_TRY(read_rows(r,
                   "SELECT step, loss, lr, grad_norm, tokens_per_s, rss_mib, seconds, tokens, targets FROM "
                   "steps ORDER BY step",
                   sizeof *out->step, read_step, (void **)&out->step, &out->n_step));
  LC_TRY(read_rows(r, "SELECT step, loss, perplexity, targets FROM evals ORDER BY step", sizeof *out->eval,
                   read_eval, (void **)&out->eval, &out->n_eval));
  LC_TRY(read_rows(r, "SELECT step, prompt, text FROM samples ORDER BY step", sizeof *out->sample,
                   read_sample, (void **)&out->sample, &out->n_sample));
  return read_rows(r,
                   "SELECT name, module, layer, rows, cols, changed, norm_delta, norm_weight, max_delta FROM "
                   "tensors ORDER BY layer, name",
                   sizeof *out->tensor, read_tensor, (void **)&out->tensor, &out->n_tensor);
}

static int64_t size_of(lc_ctx *ctx, const char *dir, const char *name) {
  struct stat s;
  char *path = lc_path_join(ctx, dir, name);
  int64_t n = path && !stat(path, &s) ? (int64_t)s.st_size : 0;
  lc_free(ctx, path);
  return n;
}

static lc_status read_beside(lc_report *out) {
  out->adapter_bytes = size_of(out->ctx, out->dir, "adapter_model.safetensors") +
                       size_of(out->ctx, out->dir, "lacuna_adapter.safetensors");
  char *path = lc_path_join(out->ctx, out->dir, "recipe.yaml");
  if (!path) return LC_FAILED;
  lc_status st = LC_OK;
  if (lc_path_exists(path)) {
    st = lc_recipe_read(out->ctx, path, &out->recipe);
    out->has_recipe = !st;
  }
  lc_free(out->ctx, path);
  return st;
}

lc_status lc_report_read(lc_ctx *ctx, const char *dir, lc_report *out) {
  *out = (lc_report){.ctx = ctx};
  char *path = lc_path_join(ctx, dir, "run.sqlite");
  reader r = {ctx, path, NULL};
  lc_status st = LC_OK;
  out->dir = lc_strdup(ctx, dir);
  if (!path || !out->dir) {
    st = LC_FAILED;
    goto done;
  }
  if (!lc_path_exists(path)) {
    st = lc_fail(ctx, "%s: there is no such file; a run's directory is expected", path);
    goto done;
  }
  if (sqlite3_open_v2(path, &r.db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK) {
    st = broken(&r);
    goto done;
  }
  sqlite3_busy_timeout(r.db, 10000); /* the run may be writing */
  LC_GO(read_history(&r, out));
  st = read_beside(out);
done:
  sqlite3_close(r.db);
  lc_free(ctx, path);
  if (st) lc_report_free(out);
  return st;
}

void lc_report_free(lc_report *r) {
  lc_ctx *ctx = r->ctx;
  char *const field[] = {r->dir, r->method, r->model, r->data, r->started, r->finished, r->version};
  for (size_t i = 0; i < sizeof field / sizeof *field; i++) lc_free(ctx, field[i]);
  for (int64_t i = 0; i < r->n_sample; i++) {
    lc_free(ctx, r->sample[i].prompt);
    lc_free(ctx, r->sample[i].text);
  }
  for (int64_t i = 0; i < r->n_tensor; i++) {
    lc_free(ctx, r->tensor[i].name);
    lc_free(ctx, r->tensor[i].module);
  }
  lc_free(ctx, r->step);
  lc_free(ctx, r->eval);
  lc_free(ctx, r->sample);
  lc_free(ctx, r->tensor);
  if (r->has_recipe) lc_recipe_free(ctx, &r->recipe);
  json_decref(r->summary);
  *r = (lc_report){.ctx = ctx};
}
