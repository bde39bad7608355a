/* The output directory: what may be written into, what an interruption left behind, which checkpoints it
 * holds.
 *
 * A checkpoint is made under a hidden name, and renamed when it is whole; what is replaced changes names with it at
 * once (or, where the file system cannot, is renamed to a hidden name first, as is what is pruned). So a visible checkpoint-N is whole at every moment, and what a killed run leaves behind (hidden
 * ".lacuna-…", unfinished "….tmp-…") can be removed whenever a run starts. */
#include "train/internal.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HIDDEN ".lacuna-"

/* The N of "checkpoint-N"; -1 for any other name. */
static int64_t step_of(const char *name) {
  static const char prefix[] = "checkpoint-";
  if (strncmp(name, prefix, sizeof prefix - 1)) return -1;
  const char *p = name + sizeof prefix - 1;
  size_t n = strlen(p);
  if (n == 0 || n > 15) return -1;
  for (size_t i = 0; i < n; i++)
    if (!isdigit((unsigned char)p[i])) return -1;
  return atoll(p);
}

static lc_status remove_in(lc_ctx *ctx, const char *out, const char *name) {
  char *path = lc_path_join(ctx, out, name);
  lc_status st = path ? lc_remove_tree(ctx, path) : LC_FAILED;
  lc_free(ctx, path);
  return st;
}

/* Calls fn for each entry of a directory; an absent directory has none. */
typedef lc_status (*entry_fn)(void *arg, const char *name);
static lc_status each_entry(lc_ctx *ctx, const char *out, entry_fn fn, void *arg) {
  DIR *d = opendir(out);
  lc_status st = LC_OK;
  if (!d) return errno == ENOENT ? LC_OK : lc_fail(ctx, "%s: %s", out, strerror(errno));
  for (struct dirent *e; !st && (e = readdir(d));)
    if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) st = fn(arg, e->d_name);
  closedir(d);
  return st;
}

/* ---- checkpoints
 * ------------------------------------------------------------------------------------------------- */

typedef struct {
  lc_ctx *ctx;
  const char *out;
  int64_t best, worst;
  int count;
} scan;

static bool is_whole(lc_ctx *ctx, const char *out, const char *name) {
  char *path = lc_format(ctx, "%s/%s/state.json", out, name);
  bool whole = path && lc_path_exists(path);
  lc_free(ctx, path);
  return whole;
}

static lc_status see(void *arg, const char *name) {
  scan *s = arg;
  int64_t step = step_of(name);
  if (step < 0 || !is_whole(s->ctx, s->out, name)) return LC_OK;
  s->count++;
  if (step > s->best) s->best = step;
  if (s->worst < 0 || step < s->worst) s->worst = step;
  return LC_OK;
}

lc_status lc_outdir_last(lc_ctx *ctx, const char *out, int64_t *step) {
  scan s = {.ctx = ctx, .out = out, .best = -1, .worst = -1};
  LC_TRY(each_entry(ctx, out, see, &s));
  *step = s.best;
  return LC_OK;
}

/* Removes OUT/checkpoint-<step> by way of a hidden name. */
static lc_status drop(lc_ctx *ctx, const char *out, int64_t step) {
  char *from = lc_format(ctx, "%s/checkpoint-%lld", out, (long long)step),
       *to = lc_format(ctx, "%s/" HIDDEN "old-%lld", out, (long long)step);
  lc_status st = from && to ? lc_remove_tree(ctx, to) : LC_FAILED;
  if (!st) st = lc_rename_dir(ctx, from, to);
  if (!st) st = lc_remove_tree(ctx, to);
  lc_free(ctx, from);
  lc_free(ctx, to);
  return st;
}

lc_status lc_outdir_prune(lc_ctx *ctx, const char *out, int64_t keep) {
  for (;;) {
    scan s = {.ctx = ctx, .out = out, .best = -1, .worst = -1};
    LC_TRY(each_entry(ctx, out, see, &s));
    if (s.count <= keep) return LC_OK;
    LC_TRY(drop(ctx, out, s.worst));
  }
}

lc_status lc_outdir_drop_after(lc_ctx *ctx, const char *out, int64_t step) {
  for (;;) {
    int64_t last;
    LC_TRY(lc_outdir_last(ctx, out, &last));
    if (last <= step) return LC_OK;
    LC_TRY(drop(ctx, out, last));
  }
}

lc_status lc_outdir_replace(lc_ctx *ctx, const char *out, const char *tmp, const char *name) {
  char *from = lc_path_join(ctx, out, tmp), *to = lc_path_join(ctx, out, name),
       *old = lc_path_join(ctx, out, HIDDEN "old");
  lc_status st = from && to && old ? lc_remove_tree(ctx, old) : LC_FAILED;
  bool replaced = false;
  const bool there = !st && lc_path_exists(to);
  if (there) st = lc_exchange_dirs(ctx, from, to, &replaced);
  if (!st && there && !replaced) st = lc_rename_dir(ctx, to, old);
  if (!st && !replaced) st = lc_rename_dir(ctx, from, to);
  if (!st) st = lc_remove_tree(ctx, replaced ? from : old);
  lc_free(ctx, from);
  lc_free(ctx, to);
  lc_free(ctx, old);
  return st;
}

/* "name.tmp-<process>-<number>": a file that a killed run was writing (core/file.c). */
static bool is_unfinished(const char *name) {
  const char *at = strstr(name, ".tmp-");
  return at && at[5 + strspn(at + 5, "0123456789-")] == 0;
}

static lc_status sweep_one(void *arg, const char *name) {
  scan *s = arg;
  return strncmp(name, HIDDEN, sizeof HIDDEN - 1) && !is_unfinished(name) ? LC_OK
                                                                          : remove_in(s->ctx, s->out, name);
}

lc_status lc_outdir_sweep(lc_ctx *ctx, const char *out) {
  scan s = {.ctx = ctx, .out = out};
  return each_entry(ctx, out, sweep_one, &s);
}

/* ---- claiming a directory
 * ------------------------------------------------------------------------------------------ */

static bool starts(const char *s, const char *prefix) {
  return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool ends(const char *s, const char *suffix) {
  size_t n = strlen(s), m = strlen(suffix);
  return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* What an earlier run of ours wrote at the top of OUT; anything else is not touched by --overwrite. */
static bool is_ours(const char *name) {
  static const char *const files[] = {"recipe.yaml",
                                      "log.jsonl",
                                      "run.sqlite",
                                      "run.sqlite-journal",
                                      "adapter_config.json",
                                      "lacuna_adapter.json",
                                      "config.json",
                                      "generation_config.json",
                                      "best",
                                      "report.html"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    if (strcmp(name, files[i]) == 0) return true;
  return step_of(name) >= 0 || starts(name, HIDDEN) || is_unfinished(name) || ends(name, ".safetensors") ||
         ends(name, ".safetensors.index.json");
}

static lc_status overwrite_one(void *arg, const char *name) {
  scan *s = arg;
  return is_ours(name) ? remove_in(s->ctx, s->out, name) : LC_OK;
}

/* count: entries; best: 1 when a run of ours left its mark among them. */
static lc_status count_one(void *arg, const char *name) {
  scan *s = arg;
  s->count++;
  if (!strcmp(name, "run.sqlite") || !strcmp(name, "recipe.yaml") || !strcmp(name, "log.jsonl")) s->best = 1;
  return LC_OK;
}

static lc_status refuse_base(const lc_loop *l) {
  char *a = realpath(l->io->out, NULL), *b = realpath(l->t.net->model->path, NULL);
  bool same = a && b && strcmp(a, b) == 0;
  free(a);
  free(b);
  return same ? lc_usage(l->t.ctx, "%s: the output directory is the model itself, which is never written",
                         l->io->out)
              : LC_OK;
}

/* Finds the checkpoint to go on from: l->from, or NULL to begin again from step 0 of a run that had saved
 * nothing. */
static lc_status find_checkpoint(lc_loop *l) {
  lc_ctx *ctx = l->t.ctx;
  const char *out = l->io->out, *want = l->io->resume_from;
  if (want) {
    l->from = strchr(want, '/') || lc_path_is_dir(want) ? lc_strdup(ctx, want) : lc_path_join(ctx, out, want);
    if (!l->from) return LC_FAILED;
    if (!lc_path_is_dir(l->from)) return lc_fail(ctx, "%s: there is no such checkpoint", l->from);
    return LC_OK;
  }
  int64_t step;
  LC_TRY(lc_outdir_last(ctx, out, &step));
  if (step >= 0)
    return (l->from = lc_format(ctx, "%s/checkpoint-%lld", out, (long long)step)) ? LC_OK : LC_FAILED;
  char *history = lc_path_join(ctx, out, "run.sqlite");
  if (!history) return LC_FAILED;
  bool begun = lc_path_exists(history);
  lc_free(ctx, history);
  return begun ? LC_OK : lc_fail(ctx, "%s: nothing to resume: it holds no checkpoint and no run", out);
}

lc_status lc_outdir_claim(lc_loop *l) {
  lc_ctx *ctx = l->t.ctx;
  const char *out = l->io->out;
  if (!out || !*out) return lc_usage(ctx, "train: no output directory");
  if (lc_path_exists(out) && !lc_path_is_dir(out)) return lc_fail(ctx, "%s: not a directory", out);
  LC_TRY(refuse_base(l));
  if (l->io->resume || l->io->resume_from) {
    LC_TRY(find_checkpoint(l));
    return lc_outdir_sweep(ctx, out);
  }
  scan s = {.ctx = ctx, .out = out};
  LC_TRY(each_entry(ctx, out, count_one, &s));
  if (s.count && !l->io->overwrite)
    return lc_fail(
        ctx, "%s: the directory is not empty; --resume goes on with its run, --overwrite replaces it", out);
  if (s.count && !s.best)
    return lc_fail(
        ctx, "%s: the directory is not empty and holds no run of lacuna; --overwrite replaces nothing else",
        out);
  LC_TRY(each_entry(ctx, out, overwrite_one, &s));
  l->made_out = !lc_path_exists(out);
  LC_TRY(lc_mkdirs(ctx, out));
  if (access(out, W_OK)) return lc_fail(ctx, "%s: %s", out, strerror(errno));
  return LC_OK;
}

void lc_outdir_unclaim(lc_ctx *ctx, const char *out, bool made) {
  scan s = {.ctx = ctx, .out = out};
  char *why = lc_strdup(ctx, lc_error(ctx));
  each_entry(ctx, out, overwrite_one, &s);
  if (made) rmdir(out); /* stays when something else came into it */
  if (why) lc_fail(ctx, "%s", why);
  lc_free(ctx, why);
}
