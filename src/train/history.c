/* The run's history: run.sqlite for programs and reports, log.jsonl for people and pipes.
 *
 * A kill at any moment leaves both usable. SQLite keeps a rollback journal (no WAL: one file to copy, no
 * shared memory on network disks) and synchronises fully at each commit, so a commit is whole or absent.
 * Commits cost two or three flushes of the disk, so rows are collected for up to a second, and always
 * committed before a checkpoint appears: whatever a checkpoint knows, the history has. On resume the rows
 * after the checkpoint are removed from both, and nothing is there twice. The schema is in docs/formats.md.
 */
#include "train/internal.h"
#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { Q_STEP, Q_EVAL, Q_SAMPLE, Q_TENSOR, Q_COUNT };
struct lc_history {
  lc_ctx *ctx;
  char *db_path, *log_path;
  sqlite3 *db;
  sqlite3_stmt *q[Q_COUNT];
  FILE *log;
  bool open;        /* a transaction is */
  double committed; /* when */
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, started TEXT NOT NULL, finished TEXT, version "
    "TEXT,"
    " method TEXT, model TEXT, data TEXT, planned INTEGER, identity TEXT NOT NULL, summary TEXT);"
    "CREATE TABLE IF NOT EXISTS steps (step INTEGER PRIMARY KEY, loss REAL, lr REAL, grad_norm REAL, tokens "
    "INTEGER,"
    " targets INTEGER, tokens_per_s REAL, rss_mib REAL, seconds REAL);"
    "CREATE TABLE IF NOT EXISTS evals (step INTEGER PRIMARY KEY, loss REAL, perplexity REAL, targets INTEGER,"
    " seconds REAL);"
    "CREATE TABLE IF NOT EXISTS samples (step INTEGER PRIMARY KEY, prompt TEXT, text TEXT);"
    "CREATE TABLE IF NOT EXISTS tensors (name TEXT PRIMARY KEY, layer INTEGER, module TEXT, kind TEXT, rows "
    "INTEGER,"
    " cols INTEGER, changed INTEGER, norm_delta REAL, norm_weight REAL, max_delta REAL);"
    "PRAGMA user_version = 1;";

static const char *const inserts[Q_COUNT] = {
    "INSERT OR REPLACE INTO steps VALUES (?,?,?,?,?,?,?,?,?)",
    "INSERT OR REPLACE INTO evals VALUES (?,?,?,?,?)",
    "INSERT OR REPLACE INTO samples VALUES (?,?,?)",
    "INSERT OR REPLACE INTO tensors VALUES (?,?,?,?,?,?,?,?,?,?)",
};

static lc_status broken(lc_history *h) {
  return lc_fail(h->ctx, "%s: %s", h->db_path, sqlite3_errmsg(h->db));
}

static lc_status sql(lc_history *h, const char *text) {
  return sqlite3_exec(h->db, text, NULL, NULL, NULL) == SQLITE_OK ? LC_OK : broken(h);
}

/* ---- open, close
 * ------------------------------------------------------------------------------------------------ */

static lc_status open_db(lc_history *h) {
  int rc = sqlite3_open_v2(h->db_path, &h->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
  if (rc != SQLITE_OK)
    return lc_fail(h->ctx, "%s: %s", h->db_path, h->db ? sqlite3_errmsg(h->db) : sqlite3_errstr(rc));
  sqlite3_busy_timeout(h->db, 10000); /* a report may be reading */
  LC_TRY(sql(h, "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;"));
  LC_TRY(sql(h, schema));
  for (int i = 0; i < Q_COUNT; i++)
    if (sqlite3_prepare_v3(h->db, inserts[i], -1, SQLITE_PREPARE_PERSISTENT, &h->q[i], NULL) != SQLITE_OK)
      return broken(h);
  return LC_OK;
}

static lc_status open_log(lc_history *h, const char *mode) {
  h->log = fopen(h->log_path, mode);
  return h->log ? LC_OK : lc_fail(h->ctx, "%s: %s", h->log_path, strerror(errno));
}

lc_status lc_history_open(lc_ctx *ctx, const char *out, lc_history **made) {
  lc_status st = LC_FAILED;
  lc_history *h = lc_alloc(ctx, LC_MEM_OTHER, sizeof *h);
  *made = NULL;
  if (!h) return LC_FAILED;
  h->ctx = ctx;
  h->db_path = lc_path_join(ctx, out, "run.sqlite");
  h->log_path = lc_path_join(ctx, out, "log.jsonl");
  if (!h->db_path || !h->log_path) goto done;
  LC_GO(open_db(h));
  LC_GO(open_log(h, "ab"));
  *made = h;
done:
  if (st) lc_history_close(h);
  return st;
}

void lc_history_close(lc_history *h) {
  if (!h) return;
  if (h->db && h->open) sqlite3_exec(h->db, "COMMIT", NULL, NULL, NULL);
  for (int i = 0; i < Q_COUNT; i++) sqlite3_finalize(h->q[i]);
  sqlite3_close(h->db);
  if (h->log) fclose(h->log);
  lc_free(h->ctx, h->db_path);
  lc_free(h->ctx, h->log_path);
  lc_free(h->ctx, h);
}

/* ---- transactions
 * ------------------------------------------------------------------------------------------------ */

static lc_status begin(lc_history *h) {
  if (h->open) return LC_OK;
  LC_TRY(sql(h, "BEGIN IMMEDIATE"));
  h->open = true;
  h->committed = lc_now();
  return LC_OK;
}

static lc_status commit(lc_history *h) {
  if (!h->open) return LC_OK;
  LC_TRY(sql(h, "COMMIT"));
  h->open = false;
  return LC_OK;
}

lc_status lc_history_flush(lc_history *h) {
  LC_TRY(commit(h));
  if (fflush(h->log) || fsync(fileno(h->log))) return lc_fail(h->ctx, "%s: %s", h->log_path, strerror(errno));
  return LC_OK;
}

/* Runs a bound statement; within a second of the last commit the row waits for its neighbours. */
static lc_status insert(lc_history *h, int q) {
  LC_TRY(begin(h));
  int rc = sqlite3_step(h->q[q]);
  lc_status st = rc == SQLITE_DONE ? LC_OK : broken(h);
  sqlite3_reset(h->q[q]);
  sqlite3_clear_bindings(h->q[q]);
  if (!st && lc_now() - h->committed > 1) st = commit(h);
  return st;
}

/* ---- rows
 * ----------------------------------------------------------------------------------------------------------
 */

lc_status lc_history_step(lc_history *h, const lc_step_row *r) {
  sqlite3_stmt *q = h->q[Q_STEP];
  sqlite3_bind_int64(q, 1, r->step);
  sqlite3_bind_double(q, 2, r->loss);
  sqlite3_bind_double(q, 3, r->lr);
  sqlite3_bind_double(q, 4, r->grad_norm);
  sqlite3_bind_int64(q, 5, r->tokens);
  sqlite3_bind_int64(q, 6, r->targets);
  sqlite3_bind_double(q, 7, r->tokens_per_s);
  sqlite3_bind_double(q, 8, r->rss_mib);
  sqlite3_bind_double(q, 9, r->seconds);
  return insert(h, Q_STEP);
}

lc_status lc_history_eval(lc_history *h, int64_t step, double loss, double perplexity, int64_t targets,
                          double seconds) {
  sqlite3_stmt *q = h->q[Q_EVAL];
  sqlite3_bind_int64(q, 1, step);
  sqlite3_bind_double(q, 2, loss);
  sqlite3_bind_double(q, 3, perplexity);
  sqlite3_bind_int64(q, 4, targets);
  sqlite3_bind_double(q, 5, seconds);
  return insert(h, Q_EVAL);
}

lc_status lc_history_sample(lc_history *h, int64_t step, const char *prompt, const char *text) {
  sqlite3_stmt *q = h->q[Q_SAMPLE];
  sqlite3_bind_int64(q, 1, step);
  sqlite3_bind_text(q, 2, prompt, -1, SQLITE_STATIC);
  sqlite3_bind_text(q, 3, text, -1, SQLITE_STATIC);
  return insert(h, Q_SAMPLE);
}

lc_status lc_history_tensor(lc_history *h, const lc_tensor_row *r) {
  sqlite3_stmt *q = h->q[Q_TENSOR];
  sqlite3_bind_text(q, 1, r->name, -1, SQLITE_STATIC);
  if (r->layer >= 0) sqlite3_bind_int(q, 2, r->layer); /* else NULL */
  sqlite3_bind_text(q, 3, r->module, -1, SQLITE_STATIC);
  sqlite3_bind_text(q, 4, r->kind, -1, SQLITE_STATIC);
  sqlite3_bind_int64(q, 5, r->rows);
  sqlite3_bind_int64(q, 6, r->cols);
  sqlite3_bind_int64(q, 7, r->changed);
  sqlite3_bind_double(q, 8, r->norm_delta);
  sqlite3_bind_double(q, 9, r->norm_weight);
  sqlite3_bind_double(q, 10, r->max_delta);
  return insert(h, Q_TENSOR);
}

static void utc(char buf[32]) {
  time_t now = time(NULL);
  struct tm tm;
  gmtime_r(&now, &tm);
  strftime(buf, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* Runs one statement with up to four text parameters (NULL ends) and an integer after them. */
static lc_status run_once(lc_history *h, const char *text, const char *const *params, int n, int64_t number) {
  sqlite3_stmt *q = NULL;
  if (sqlite3_prepare_v2(h->db, text, -1, &q, NULL) != SQLITE_OK) return broken(h);
  for (int i = 0; i < n; i++) sqlite3_bind_text(q, i + 1, params[i], -1, SQLITE_TRANSIENT);
  sqlite3_bind_int64(q, n + 1, number);
  lc_status st = sqlite3_step(q) == SQLITE_DONE ? LC_OK : broken(h);
  sqlite3_finalize(q);
  return st;
}

/* ---- begin, go back, end
 * ---------------------------------------------------------------------------------------- */

lc_status lc_history_begin(lc_history *h, const json_t *identity, const char *method, const char *model,
                           const char *data, int64_t planned) {
  char now[32], *text = json_dumps(identity, JSON_SORT_KEYS | JSON_COMPACT);
  if (!text) return lc_fail(h->ctx, "%s: out of memory", h->db_path);
  utc(now);
  const char *params[] = {now, LC_VERSION, method, model, data, text};
  lc_status st = begin(h);
  if (!st)
    st = sql(
        h,
        "DELETE FROM runs; DELETE FROM steps; DELETE FROM evals; DELETE FROM samples; DELETE FROM tensors");
  if (!st)
    st = run_once(h,
                  "INSERT INTO runs (id, started, version, method, model, data, identity, planned)"
                  " VALUES (1,?,?,?,?,?,?,?)",
                  params, 6, planned);
  if (!st) st = commit(h);
  free(text);
  if (!st) {
    fclose(h->log);
    st = open_log(h, "wb");
  }
  return st;
}

lc_status lc_history_identity(lc_history *h, json_t **out) {
  sqlite3_stmt *q = NULL;
  *out = NULL;
  if (sqlite3_prepare_v2(h->db, "SELECT identity FROM runs WHERE id = 1", -1, &q, NULL) != SQLITE_OK)
    return broken(h);
  lc_status st = LC_OK;
  int rc = sqlite3_step(q);
  if (rc == SQLITE_ROW) {
    *out = json_loads((const char *)sqlite3_column_text(q, 0), 0, NULL);
    if (!*out) st = lc_fail(h->ctx, "%s: the run's identity is not JSON", h->db_path);
  } else if (rc != SQLITE_DONE) {
    st = broken(h);
  }
  sqlite3_finalize(q);
  return st;
}

/* Does a line of the log belong to the time up to update `step`? */
static bool line_stays(const char *line, size_t n, int64_t step, bool evaluated) {
  json_t *e = json_loadb(line, n, 0, NULL); /* a torn last line is no JSON and goes */
  const char *kind = json_string_value(json_object_get(e, "event"));
  int64_t at = json_integer_value(json_object_get(e, "step"));
  bool stays = false;
  if (kind && strcmp(kind, "start") == 0)
    stays = true;
  else if (kind && strcmp(kind, "done") == 0)
    stays = false;
  else if (kind && (strcmp(kind, "sample") == 0 || strcmp(kind, "checkpoint") == 0))
    stays = at < step;
  else if (kind && strcmp(kind, "eval") == 0)
    stays = at < step || (at == step && evaluated);
  else if (kind)
    stays = at <= step;
  json_decref(e);
  return stays;
}

static lc_status rewind_log(lc_history *h, int64_t step, bool evaluated) {
  char *text = NULL;
  size_t size = 0, kept = 0;
  lc_status st = LC_OK;
  if (fclose(h->log)) st = lc_fail(h->ctx, "%s: %s", h->log_path, strerror(errno));
  h->log = NULL;
  LC_GO(st);
  LC_GO(lc_read_file(h->ctx, h->log_path, (size_t)1 << 32, &text, &size));
  for (size_t at = 0; at < size;) {
    const char *end = memchr(text + at, '\n', size - at);
    size_t n = end ? (size_t)(end - text) + 1 - at : size - at;
    if (end && line_stays(text + at, n, step, evaluated)) {
      memmove(text + kept, text + at, n);
      kept += n;
    }
    at += n;
  }
  LC_GO(lc_write_file(h->ctx, h->log_path, text, kept));
  st = open_log(h, "ab");
done:
  lc_free(h->ctx, text);
  return st;
}

lc_status lc_history_rewind(lc_history *h, int64_t step, bool evaluated, int64_t planned) {
  LC_TRY(begin(h));
  LC_TRY(run_once(h, "DELETE FROM steps WHERE step > ?", NULL, 0, step));
  LC_TRY(run_once(h, evaluated ? "DELETE FROM evals WHERE step > ?" : "DELETE FROM evals WHERE step >= ?",
                  NULL, 0, step));
  LC_TRY(run_once(h, "DELETE FROM samples WHERE step >= ?", NULL, 0, step));
  LC_TRY(run_once(h, "UPDATE runs SET finished = NULL, summary = NULL, planned = ?", NULL, 0, planned));
  LC_TRY(sql(h, "DELETE FROM tensors"));
  LC_TRY(commit(h));
  return rewind_log(h, step, evaluated);
}

lc_status lc_history_done(lc_history *h, const json_t *summary) {
  char now[32], *text = json_dumps(summary, JSON_SORT_KEYS | JSON_COMPACT);
  if (!text) return lc_fail(h->ctx, "%s: out of memory", h->db_path);
  utc(now);
  const char *params[] = {now, text};
  lc_status st = begin(h);
  if (!st) st = run_once(h, "UPDATE runs SET finished = ?, summary = ? WHERE id = ?", params, 2, 1);
  free(text);
  return st ? st : lc_history_flush(h);
}

lc_status lc_history_log(lc_history *h, const json_t *event) {
  if (json_dumpf(event, h->log, JSON_COMPACT) || fputc('\n', h->log) == EOF || fflush(h->log))
    return lc_fail(h->ctx, "%s: %s", h->log_path, strerror(errno));
  return LC_OK;
}
