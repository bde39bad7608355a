/* Training data: examples of ids with targets marked, from a plain text or JSON rows.
 *
 * A plain text is mapped and tokenised as one stream, then cut into consecutive rows. JSON rows are read in a
 * stream (rows.c). Ids are int32 in one array and marks one byte each: 5 bytes a token, plus 16 an example,
 * is what stays in memory. The first id of an example is never a target: nothing comes before it. */
#include "text/data.h"
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <zlib.h>

int64_t lc_data_targets(const lc_dataset *d) {
  const bool labelled = d->opts.labels != NULL; /* such rows were cut when their frame was made */
  int64_t targets = 0;
  for (int64_t i = labelled ? 0 : 1; i < lc_min64(d->row.n, d->opts.seq); i++)
    targets += labelled ? d->mask.id[i] >= 0 : d->mask.id[i] != 0;
  return targets;
}

lc_status lc_data_commit(lc_dataset *d) {
  const int64_t n = lc_min64(d->row.n, d->opts.seq), targets = lc_data_targets(d);
  const bool labelled = d->opts.labels != NULL;
  if (d->info.kind == LC_ROWS_ANSWER ? n == 0 : targets == 0) {
    d->info.dropped++;
    return LC_OK;
  }
  d->info.cut += d->row.n > n;
  if (d->n == d->cap) {
    int64_t cap = d->cap < 64 ? 64 : 2 * d->cap;
    int64_t *start = lc_realloc(d->ctx, LC_MEM_OTHER, d->start, (size_t)(cap + 1) * sizeof *start);
    if (start) d->start = start;
    int64_t *count = lc_realloc(d->ctx, LC_MEM_OTHER, d->targets, (size_t)cap * sizeof *count);
    if (count) d->targets = count;
    if (!start || !count) return LC_FAILED;
    d->cap = cap;
  }
  for (int64_t i = 0; i < n; i++) {
    char mark = (char)(labelled ? d->mask.id[i] >= 0 : i > 0 && d->mask.id[i]);
    LC_TRY(lc_ids_push(d->ctx, &d->ids, d->row.id[i]));
    if (labelled) LC_TRY(lc_ids_push(d->ctx, &d->label, d->mask.id[i]));
    if (labelled) LC_TRY(lc_bytes_add(d->ctx, &d->type, d->kinds.data + i, 1));
    LC_TRY(lc_bytes_add(d->ctx, &d->target, &mark, 1));
  }
  d->targets[d->n++] = targets;
  d->start[d->n] = d->ids.n;
  d->info.targets += targets;
  return LC_OK;
}

lc_status lc_data_add_answer(lc_dataset *d, const char *text, size_t n) {
  int64_t *at = lc_realloc(d->ctx, LC_MEM_OTHER, d->answer, (size_t)(d->n + 1) * sizeof *at);
  if (!at) return LC_FAILED;
  d->answer = at;
  at[d->n] = (int64_t)d->answers.n;
  LC_TRY(lc_bytes_add(d->ctx, &d->answers, text, n));
  return lc_bytes_add(d->ctx, &d->answers, "", 1);
}

const char *lc_data_answer(const lc_dataset *d, int64_t i) {
  return d->answer ? d->answers.data + d->answer[i] : NULL;
}

const char *lc_row_kind_name(lc_row_kind kind) {
  static const char *const names[] = {"plain text",     "text rows",    "prompt and completion",
                                      "messages",       "preferences",  "prompt and answer",
                                      "labelled texts", "tagged words", "pictures"};
  return names[kind];
}

/* ---- plain text ---------------------------------------------------------------------------------------- */

/* The stream is tokenised straight into the store; rows are only places in it. */
static lc_status load_text(lc_dataset *d) {
  lc_map map = {0};
  size_t bad;
  lc_status st = LC_OK;
  LC_GO(lc_map_open(d->ctx, d->path, &map));
  const char *text = (const char *)map.data;
  if (map.size >= 4 && memcmp(text, "PAR1", 4) == 0) {
    st = lc_fail(d->ctx,
                 "%s: this is a Parquet file; write it as JSON lines first (pandas: read_parquet, then "
                 "to_json with orient='records', lines=True)",
                 d->path);
    goto done;
  }
  if (!lc_utf8_valid(text, map.size, &bad)) {
    st = lc_fail(d->ctx, "%s: not UTF-8 at byte %zu (0x%02X)", d->path, bad, map.data[bad]);
    goto done;
  }
  LC_GO(lc_tokenize(d->tok, text, map.size, true, &d->ids));
  if (!d->opts.whole_text && lc_token_eos(d->tok) >= 0)
    LC_GO(lc_ids_push(d->ctx, &d->ids, lc_token_eos(d->tok)));
  int64_t total = d->ids.n, seq = d->opts.whole_text ? lc_max64(total, 1) : d->opts.seq;
  d->target.data = lc_alloc(d->ctx, LC_MEM_OTHER, (size_t)total);
  d->start = lc_alloc_n(d->ctx, LC_MEM_OTHER, (size_t)lc_ceil_div(total, seq) + 1, sizeof *d->start);
  d->targets = lc_alloc_n(d->ctx, LC_MEM_OTHER, (size_t)lc_ceil_div(total, seq) + 1, sizeof *d->targets);
  if (!d->target.data || !d->start || !d->targets) {
    st = LC_FAILED;
    goto done;
  }
  memset(d->target.data, 1, (size_t)total);
  for (int64_t at = 0; at < total; at += seq) {
    int64_t n = lc_min64(seq, total - at);
    d->target.data[at] = 0;
    if (n == 1) { /* the last token alone has nothing to be predicted from */
      d->info.dropped++;
      d->ids.n--;
      break;
    }
    d->targets[d->n++] = n - 1;
    d->start[d->n] = at + n;
    d->info.targets += n - 1;
  }
done:
  lc_map_close(d->ctx, &map);
  return st;
}

/* A file is rows when its name says so or its first character is a brace; one called .txt is never looked
 * into. A pipe cannot be looked into or mapped: it must hold rows. */
static bool looks_like_rows(const char *path) {
  const char *dot = strrchr(path, '.');
  struct stat info;
  if (dot && (!strcasecmp(dot, ".jsonl") || !strcasecmp(dot, ".json") || !strcasecmp(dot, ".ndjson")))
    return true;
  if (dot && !strcasecmp(dot, ".txt")) return false;
  if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) return !S_ISDIR(info.st_mode);
  char head[4096];
  FILE *f = fopen(path, "rb");
  size_t n = f ? fread(head, 1, sizeof head, f) : 0, i = 0;
  if (f) fclose(f); /* what cannot be opened is reported by who reads it */
  while (i < n && (head[i] == ' ' || head[i] == '\t' || head[i] == '\r' || head[i] == '\n')) i++;
  return i < n && head[i] == '{';
}

/* Gives back what growing by halves has left over. */
static lc_status shrink(lc_dataset *d) {
  int32_t *id = lc_realloc(d->ctx, LC_MEM_OTHER, d->ids.id, (size_t)d->ids.n * sizeof *id);
  if (id) d->ids.id = id, d->ids.cap = d->ids.n;
  char *mark = lc_realloc(d->ctx, LC_MEM_OTHER, d->target.data, (size_t)d->ids.n);
  if (mark) d->target.data = mark, d->target.cap = (size_t)d->ids.n;
  return id && mark ? LC_OK : LC_FAILED;
}

static void seal(lc_dataset *d) {
  d->info.group = d->info.kind == LC_ROWS_PREFERENCE ? 2 : 1;
  d->info.rows = d->n / d->info.group, d->info.tokens = d->ids.n;
  uLong sum = crc32(0, Z_NULL, 0);
  sum = crc32_z(sum, (const Bytef *)d->ids.id, (size_t)d->ids.n * sizeof *d->ids.id);
  sum = crc32_z(sum, (const Bytef *)d->target.data, (size_t)d->ids.n);
  if (d->label.n) sum = crc32_z(sum, (const Bytef *)d->label.id, (size_t)d->label.n * sizeof *d->label.id);
  if (d->type.n) sum = crc32_z(sum, (const Bytef *)d->type.data, d->type.n);
  sum = crc32_z(sum, (const Bytef *)d->start, (size_t)(d->n + 1) * sizeof *d->start);
  if (d->answers.n) sum = crc32_z(sum, (const Bytef *)d->answers.data, d->answers.n);
  if (d->pictures.patches)
    sum = crc32_z(sum, (const Bytef *)&d->pictures.checksum, sizeof d->pictures.checksum);
  d->info.checksum = (uint32_t)sum;
}

lc_status lc_data_open(lc_ctx *ctx, const lc_tokenizer *tok, const char *path, const lc_data_opts *opts,
                       lc_dataset **out) {
  lc_status st = LC_OK;
  *out = NULL;
  if (opts->seq < 2 && !opts->whole_text)
    return lc_usage(ctx, "rows of %lld tokens hold nothing to learn (at least 2)", (long long)opts->seq);
  if (tok->framed && !opts->labels)
    return lc_fail(
        ctx,
        "%s: the tokenizer puts tokens around a whole text: it is an encoder's, whose rows have labels "
        "(--task classification or token-classification)",
        path);
  lc_dataset *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  if (!d) return LC_FAILED;
  d->ctx = ctx, d->tok = tok, d->path = path, d->opts = *opts, d->end = -1;
  if (d->opts.seq < 2) d->opts.seq = INT64_MAX;
  LC_GO(opts->labels || looks_like_rows(path) ? lc_rows_load(d) : load_text(d));
  if (d->n == 0) {
    st = lc_fail(
        ctx, "%s: there is nothing to learn in it (%lld rows dropped for want of a target, %lld malformed)",
        path, (long long)d->info.dropped, (long long)d->info.bad);
    goto done;
  }
  LC_GO(shrink(d));
  seal(d);
  if (d->tmpl) d->info.template_name = lc_template_name(d->tmpl);
  *out = d;
done:
  lc_ids_free(ctx, &d->row);
  lc_ids_free(ctx, &d->mask);
  d->path = NULL;
  if (st) lc_data_free(d);
  return st;
}

lc_status lc_data_from_ids(lc_ctx *ctx, const lc_example *row, int64_t n, lc_dataset **out) {
  *out = NULL;
  lc_dataset *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  if (!d) return LC_FAILED;
  d->ctx = ctx, d->opts.seq = INT64_MAX, d->end = -1, d->info.kind = LC_ROWS_TEXT;
  lc_status st = LC_OK;
  for (int64_t i = 0; i < n; i++) {
    d->row.n = d->mask.n = 0;
    for (int64_t k = 0; k < row[i].n; k++) {
      LC_GO(lc_ids_push(ctx, &d->row, row[i].id[k]));
      LC_GO(lc_ids_push(ctx, &d->mask, row[i].target[k]));
    }
    LC_GO(lc_data_commit(d));
  }
  if (d->n == 0) {
    st = lc_fail(ctx, "data from ids: none of %lld rows has a target", (long long)n);
    goto done;
  }
  seal(d);
  *out = d;
done:
  lc_ids_free(ctx, &d->row);
  lc_ids_free(ctx, &d->mask);
  if (st) lc_data_free(d);
  return st;
}

/* Rows alike, so that the store can be made at once. */
static lc_status store_pictures(lc_dataset *d, const int32_t *label, int64_t n, int64_t rows) {
  for (int64_t i = 0; i < n; i++) {
    d->row.n = d->mask.n = 0;
    for (int64_t k = 0; k < rows; k++) {
      LC_TRY(lc_ids_push(d->ctx, &d->row, k > 0));
      LC_TRY(lc_ids_push(d->ctx, &d->mask, k ? -1 : label[i]));
    }
    LC_TRY(lc_data_commit(d));
  }
  return LC_OK;
}

lc_status lc_data_of_pictures(lc_ctx *ctx, const int32_t *label, int64_t n, int64_t rows,
                              const lc_picture_source *source, lc_dataset **out) {
  static const lc_label_set any; /* rows have labels */
  *out = NULL;
  lc_dataset *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  if (!d) {
    source->close(source->self);
    return LC_FAILED;
  }
  d->ctx = ctx, d->opts.seq = rows, d->opts.labels = &any, d->end = -1, d->info.kind = LC_ROWS_PICTURES;
  d->pictures = *source;
  lc_status st = LC_OK;
  char *none = lc_alloc(ctx, LC_MEM_OTHER, (size_t)rows); /* token types */
  d->kinds = (lc_bytes){.data = none, .n = (size_t)rows, .cap = (size_t)rows};
  if (!none) LC_GO(LC_FAILED);
  LC_GO(store_pictures(d, label, n, rows));
  seal(d);
  *out = d;
done:
  lc_ids_free(ctx, &d->row);
  lc_ids_free(ctx, &d->mask);
  if (st) lc_data_free(d);
  return st;
}

void lc_data_free(lc_dataset *d) {
  if (!d) return;
  lc_ctx *ctx = d->ctx;
  if (d->pictures.close) d->pictures.close(d->pictures.self);
  lc_ids_free(ctx, &d->ids);
  lc_ids_free(ctx, &d->row);
  lc_ids_free(ctx, &d->mask);
  lc_ids_free(ctx, &d->label);
  lc_free(ctx, d->type.data);
  lc_free(ctx, d->kinds.data);
  lc_free(ctx, d->target.data);
  lc_free(ctx, d->start);
  lc_free(ctx, d->targets);
  lc_free(ctx, d->answers.data);
  lc_free(ctx, d->answer);
  lc_free(ctx, d);
}

int64_t lc_data_count(const lc_dataset *d) {
  return d->n;
}

int64_t lc_data_rows(const lc_dataset *d) {
  return d->info.rows;
}

lc_example lc_data_get(const lc_dataset *d, int64_t i) {
  int64_t at = d->start[i];
  return (lc_example){.id = d->ids.id + at,
                      .target = (const uint8_t *)d->target.data + at,
                      .n = d->start[i + 1] - at,
                      .n_targets = d->targets[i],
                      .label = d->label.id ? d->label.id + at : NULL,
                      .type = d->type.data ? (const uint8_t *)d->type.data + at : NULL,
                      .pictures = d->pictures.patches ? &d->pictures : NULL,
                      .picture = i};
}

lc_data_info lc_data_describe(const lc_dataset *d) {
  return d->info;
}

void lc_data_order(const lc_dataset *d, uint64_t seed, int64_t epoch, bool shuffle, int64_t *out) {
  lc_rng rng = {
      .seed = seed, .step = (uint32_t)epoch, .tensor = lc_fnv1a32("data"), .purpose = LC_RNG_SHUFFLE};
  if (shuffle) {
    lc_rng_permutation(&rng, d->info.rows, out);
    return;
  }
  for (int64_t i = 0; i < d->info.rows; i++) out[i] = i;
}
