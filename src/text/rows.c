/* JSON rows to examples. The first good row says of which kind all are:
 *
 *   {"text": s}                        every token a target; EOS at the end
 *   {"prompt": s, "completion": s}     both as they stand, the completion and the end token targets
 *   {"messages": [{role, content} …]}  through the model's template; the assistant's contents and their end
 * tokens targets
 *   {"prompt", "chosen", "rejected"}   two rows of prompt and completion; if one has no target, both go
 *   {"prompt", "answer"}               the prompt alone, for objectives that sample; the answer is kept as text
 *
 * Rows with labels are in labelled.c. A tokenizer that opens texts with BOS does so here too (a template has its own opening). Prompt and
 * completion are tokenised together, as TRL does, so that the boundary is what generation will see; where the
 * prompt's own ids are no prefix of that, the two are tokenised apart and the row is counted. A malformed row
 * stops the loading by its line number, or is counted when the caller wants that. */
#include "text/data.h"
#include <jansson.h>
#include <string.h>

typedef struct {
  lc_dataset *d;
  lc_lines lines;
  bool known; /* the kind is */
  bool bad;   /* this row is malformed: why says how */
  char why[LC_WHY];
} loader;

static lc_status malformed(loader *l, const char *why) {
  l->bad = true;
  snprintf(l->why, LC_WHY, "%s", why);
  return LC_OK;
}

static lc_status add_ids(loader *l, const lc_ids *ids, int64_t from, int32_t target) {
  for (int64_t i = from; i < ids->n; i++) {
    LC_TRY(lc_ids_push(l->d->ctx, &l->d->row, ids->id[i]));
    LC_TRY(lc_ids_push(l->d->ctx, &l->d->mask, target));
  }
  return LC_OK;
}

static lc_status add_id(loader *l, int32_t id, int32_t target) {
  return add_ids(l, &(lc_ids){.id = &id, .n = 1}, 0, target);
}

static lc_status tokenize_into(loader *l, const char *s, size_t n, int32_t target) {
  lc_ids ids = {0};
  lc_status st = lc_tokenize(l->d->tok, s, n, true, &ids);
  if (!st) st = add_ids(l, &ids, 0, target);
  lc_ids_free(l->d->ctx, &ids);
  return st;
}

static lc_status open_row(loader *l) {
  return lc_token_adds_bos(l->d->tok) ? add_id(l, lc_token_bos(l->d->tok), 0) : LC_OK;
}

static lc_status add_text(loader *l, const json_t *row) {
  const json_t *text = json_object_get(row, "text");
  if (!json_is_string(text)) return malformed(l, "\"text\" must be a string");
  LC_TRY(open_row(l));
  LC_TRY(tokenize_into(l, json_string_value(text), json_string_length(text), 1));
  return add_id(l, lc_token_eos(l->d->tok), 1);
}

static lc_status add_pair(loader *l, const json_t *p, const json_t *c) {
  lc_dataset *d = l->d;
  lc_ids prompt = {0}, both = {0};
  lc_bytes text = {0};
  lc_status st = LC_OK;
  LC_GO(open_row(l));
  LC_GO(lc_bytes_add(d->ctx, &text, json_string_value(p), json_string_length(p)));
  LC_GO(lc_bytes_add(d->ctx, &text, json_string_value(c), json_string_length(c)));
  LC_GO(lc_tokenize(d->tok, json_string_value(p), json_string_length(p), true, &prompt));
  LC_GO(lc_tokenize(d->tok, text.data, text.n, true, &both));
  LC_GO(add_ids(l, &prompt, 0, 0));
  if (prompt.n <= both.n &&
      (prompt.n == 0 || memcmp(prompt.id, both.id, (size_t)prompt.n * sizeof *prompt.id) == 0)) {
    LC_GO(add_ids(l, &both, prompt.n, 1));
  } else {
    d->info.apart++;
    LC_GO(tokenize_into(l, json_string_value(c), json_string_length(c), 1));
  }
  LC_GO(add_id(l, d->end, 1));
done:
  lc_ids_free(d->ctx, &prompt);
  lc_ids_free(d->ctx, &both);
  lc_free(d->ctx, text.data);
  return st;
}

static lc_status add_completion(loader *l, const json_t *row) {
  const json_t *p = json_object_get(row, "prompt"), *c = json_object_get(row, "completion");
  if (!json_is_string(p) || !json_is_string(c))
    return malformed(l, "\"prompt\" and \"completion\" must be strings");
  return add_pair(l, p, c);
}

static void exchange(lc_ids *a, lc_ids *b) {
  const lc_ids t = *a;
  *a = *b;
  *b = t;
}

/* The rejected row is left in the making; the chosen one is committed before it when both have targets. */
static lc_status add_preference(loader *l, const json_t *row) {
  lc_dataset *d = l->d;
  const json_t *p = json_object_get(row, "prompt"), *c = json_object_get(row, "chosen"),
               *r = json_object_get(row, "rejected");
  if (!json_is_string(p) || !json_is_string(c) || !json_is_string(r))
    return malformed(l, "\"prompt\", \"chosen\" and \"rejected\" must be strings");
  lc_ids ids = {0}, mask = {0};
  lc_status st = LC_OK;
  LC_GO(add_pair(l, p, c));
  bool both = lc_data_targets(d) > 0;
  exchange(&d->row, &ids);
  exchange(&d->mask, &mask);
  LC_GO(add_pair(l, p, r));
  both = both && lc_data_targets(d) > 0;
  exchange(&d->row, &ids);
  exchange(&d->mask, &mask);
  if (both) LC_GO(lc_data_commit(d));
  exchange(&d->row, &ids);
  exchange(&d->mask, &mask);
  if (!both) d->row.n = d->mask.n = 0;
done:
  lc_ids_free(d->ctx, &ids);
  lc_ids_free(d->ctx, &mask);
  return st;
}

static lc_status add_answer(loader *l, const json_t *row) {
  const json_t *p = json_object_get(row, "prompt"), *a = json_object_get(row, "answer");
  if (!json_is_string(p) || !json_is_string(a))
    return malformed(l, "\"prompt\" and \"answer\" must be strings");
  LC_TRY(open_row(l));
  LC_TRY(tokenize_into(l, json_string_value(p), json_string_length(p), 0));
  return l->d->row.n ? lc_data_add_answer(l->d, json_string_value(a), json_string_length(a)) : LC_OK;
}

static bool known_role(const char *role) {
  static const char *const roles[] = {"system", "user", "assistant", "tool"};
  for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
    if (strcmp(role, roles[i]) == 0) return true;
  return false;
}

static lc_status add_messages(loader *l, const json_t *row) {
  const json_t *list = json_object_get(row, "messages");
  if (!json_is_array(list)) return malformed(l, "\"messages\" must be a list");
  size_t n = json_array_size(list);
  if (n > INT32_MAX) return malformed(l, "too many messages");
  lc_message *m = lc_alloc_n(l->d->ctx, LC_MEM_OTHER, n, sizeof *m);
  if (!m) return LC_FAILED;
  lc_status st = LC_OK;
  for (size_t i = 0; i < n && !l->bad; i++) {
    const json_t *o = json_array_get(list, i);
    m[i] = (lc_message){json_string_value(json_object_get(o, "role")),
                        json_string_value(json_object_get(o, "content"))};
    if (!m[i].role || !m[i].content) {
      malformed(l, "a message must have a \"role\" and a \"content\" that are strings");
    } else if (!known_role(m[i].role)) {
      l->bad = true;
      snprintf(l->why, LC_WHY, "the role '%s' is none of system, user, assistant, tool",
               lc_quoted_str(m[i].role).s);
    }
  }
  if (!l->bad && n) st = lc_template_render(l->d->tmpl, l->d->tok, m, (int)n, false, &l->d->row, &l->d->mask);
  lc_free(l->d->ctx, m);
  return st;
}

/* ---- rows with labels ---- */

static lc_status add_labelled(loader *l, const json_t *row) {
  const bool each = l->d->opts.labels->place == LC_LABEL_EACH;
  bool good;
  l->known = true;
  l->d->info.kind = each ? LC_ROWS_TAGGED : LC_ROWS_LABELLED;
  LC_TRY(each ? lc_labelled_tokens(l->d, row, l->why, &good) : lc_labelled_text(l->d, row, l->why, &good));
  l->bad = !good;
  return LC_OK;
}

/* ---- kinds --------------------------------------------------------------------------------------------- */

static const struct {
  lc_row_kind kind;
  const char *key[3]; /* members that such a row has */
  bool spare;         /* only when the row is of no other kind */
  lc_status (*add)(loader *, const json_t *);
} kinds[] = {{LC_ROWS_MESSAGES, {"messages"}, false, add_messages},
             {LC_ROWS_COMPLETION, {"prompt", "completion"}, false, add_completion},
             {LC_ROWS_TEXT, {"text"}, false, add_text},
             {LC_ROWS_PREFERENCE, {"prompt", "chosen", "rejected"}, false, add_preference},
             {LC_ROWS_ANSWER, {"prompt", "answer"}, true, add_answer}};
enum { N_KINDS = sizeof kinds / sizeof *kinds };
#define NO_KIND                                                                                              \
  "no \"text\", no \"prompt\" with \"completion\", \"answer\" or \"chosen\" and \"rejected\", no "           \
  "\"messages\""

static bool has(const json_t *row, int k) {
  for (int i = 0; i < 3 && kinds[k].key[i]; i++)
    if (!json_object_get(row, kinds[k].key[i])) return false;
  return true;
}

/* What rows of this kind need of the tokenizer is asked for once. */
static lc_status set_kind(loader *l, int k) {
  lc_dataset *d = l->d;
  const lc_template *tmpl = lc_template_known(lc_tokenizer_template(d->tok));
  l->known = true;
  d->info.kind = kinds[k].kind;
  if (kinds[k].kind == LC_ROWS_MESSAGES) return lc_template_for(d->tok, &d->tmpl);
  if (kinds[k].kind == LC_ROWS_ANSWER) return LC_OK;
  if (kinds[k].kind != LC_ROWS_TEXT && tmpl) d->end = lc_template_end(tmpl, d->tok);
  if (d->end < 0) d->end = lc_token_eos(d->tok);
  if (d->end < 0)
    return lc_fail(d->ctx, "%s: rows end in an end token, and the tokenizer names none (eos_token)", d->path);
  return LC_OK;
}

static lc_status add_row(loader *l, const json_t *row) {
  if (l->d->opts.labels) return add_labelled(l, row);
  int kind = -1, n = 0;
  for (int k = 0; k < N_KINDS; k++)
    if (has(row, k) && !(kinds[k].spare && n)) kind = n++ ? kind : k;
  if (l->known) {
    for (int k = 0; k < N_KINDS; k++)
      if (kinds[k].kind == l->d->info.kind && has(row, k)) return kinds[k].add(l, row);
    if (kind < 0) return malformed(l, NO_KIND);
    l->bad = true;
    snprintf(l->why, LC_WHY, "a row of another kind (\"%s\") than the first", kinds[kind].key[0]);
    return LC_OK;
  }
  if (n == 0) return malformed(l, NO_KIND);
  if (n > 1)
    return malformed(
        l, "the row is of more than one kind (text, prompt with completion, messages, preferences)");
  LC_TRY(set_kind(l, kind));
  return kinds[kind].add(l, row);
}

static lc_status load_line(loader *l, const char *line, size_t n) {
  lc_dataset *d = l->d;
  lc_status st = LC_OK;
  l->bad = false;
  d->row.n = d->mask.n = 0;
  json_t *row = lc_row_parse(line, n, l->why);
  if (row)
    st = add_row(l, row);
  else
    l->bad = true;
  json_decref(row);
  if (st) return st;
  if (!l->bad) return lc_data_commit(d);
  if (!d->opts.skip_bad)
    return lc_fail(d->ctx, "%s: line %lld: %s", d->path, (long long)l->lines.line, l->why);
  d->info.bad++;
  return LC_OK;
}

lc_status lc_rows_load(lc_dataset *d) {
  loader l = {.d = d};
  lc_status st = LC_OK;
  const char *line;
  size_t n;
  LC_GO(lc_lines_open(d->ctx, d->path, &l.lines));
  for (;;) {
    LC_GO(lc_lines_next(&l.lines, &line, &n));
    if (!line) break;
    LC_GO(load_line(&l, line, n));
    if (lc_stop_requested(d->ctx)) {
      st = LC_STOPPED;
      goto done;
    }
  }
  if (d->info.apart)
    lc_log(d->ctx, LC_LOG_WARN,
           "%s: in %lld rows the prompt's tokens change when the completion follows: tokenised apart",
           d->path, (long long)d->info.apart);
done:
  lc_lines_close(&l.lines);
  return st;
}
