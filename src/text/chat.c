/* Chat templates: built in, and chosen by the exact text of the model's own.
 *
 * A template is a row of data, enough for the family "mark role newline content mark": what opens a turn,
 * what stands between role and content, what ends a turn (the end token, inside the loss) and what follows it
 * (outside), and the system turn that is put in front when the first message is none. A model whose template
 * text is no row's is refused: a nearly right prompt is a silent loss of quality.
 *
 * The whole rendered text is tokenised at once, as transformers does it, so a role's newline and a content
 * that begins with one may share a token; a token is a target when any of its bytes belongs to an assistant's
 * content or the end token after it. */
#include "text/tokenizer.h"
#include <string.h>

struct lc_template {
  const char *name;
  const char *text; /* the model's template; a newline in it may be spelt \n as well: both occur, and mean the
                       same in Jinja */
  const char *system; /* content of the turn that is put in front, or NULL */
  const char *open, *between, *end, *after;
};

#define CHATML_MESSAGE                                                                                       \
  "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
#define CHATML_PROMPT  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#define SMOLLM2_SYSTEM "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

static const lc_template rows[] = {
    {"smollm2",
     "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
     "'<|im_start|>system\n" SMOLLM2_SYSTEM "<|im_end|>\n' }}{% endif %}" CHATML_MESSAGE CHATML_PROMPT,
     SMOLLM2_SYSTEM, "<|im_start|>", "\n", "<|im_end|>", "\n"},
    {"chatml", "{% for message in messages %}" CHATML_MESSAGE CHATML_PROMPT, NULL, "<|im_start|>", "\n",
     "<|im_end|>", "\n"},
    {"chatml",
     "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
     "{% for message in messages %}" CHATML_MESSAGE CHATML_PROMPT,
     NULL, "<|im_start|>", "\n", "<|im_end|>", "\n"},
};

static bool same_text(const char *ours, const char *theirs) {
  for (; *ours; ours++, theirs++) {
    if (*ours == '\n' && theirs[0] == '\\' && theirs[1] == 'n')
      theirs++;
    else if (*ours != *theirs)
      return false;
  }
  return !*theirs;
}

const lc_template *lc_template_known(const char *text) {
  for (size_t i = 0; text && i < sizeof rows / sizeof *rows; i++)
    if (same_text(rows[i].text, text)) return &rows[i];
  return NULL;
}

lc_status lc_template_for(const lc_tokenizer *t, const lc_template **out) {
  *out = NULL;
  if (!t->chat_template) return lc_fail(t->ctx, "%s: the model has no chat template", t->source);
  const lc_template *k = lc_template_known(t->chat_template);
  if (!k) {
    const char *first = t->chat_template + strspn(t->chat_template, " \t\r\n");
    return lc_fail(t->ctx, "%s: the model's chat template is not built in; it begins '%s'", t->source,
                   lc_quoted(first, strcspn(first, "\n")).s);
  }
  const char *need[] = {k->open, k->end};
  for (int i = 0; i < 2; i++)
    if (lc_token_id(t, need[i]) < 0)
      return lc_fail(t->ctx, "%s: the chat template '%s' needs the token '%s', which the vocabulary lacks",
                     t->source, k->name, need[i]);
  *out = k;
  return LC_OK;
}

const char *lc_template_name(const lc_template *k) {
  return k->name;
}

int32_t lc_template_end(const lc_template *k, const lc_tokenizer *t) {
  return lc_token_id(t, k->end);
}

lc_status lc_stops_finish(lc_tokenizer *t) {
  LC_TRY(lc_stops_add(t, t->eos));
  LC_TRY(lc_stops_add(t, t->eot));
  LC_TRY(lc_stops_add(t, t->eom));
  const lc_template *k = lc_template_known(t->chat_template);
  return k ? lc_stops_add(t, lc_template_end(k, t)) : LC_OK;
}

/* ---- rendering ----------------------------------------------------------------------------------------- */

typedef struct {
  lc_ctx *ctx;
  const lc_template *k;
  lc_bytes text, spans; /* spans: pairs of int64, [from, to) of the text, that are targets */
} page;

static lc_status put(page *p, const char *s) {
  return lc_bytes_add(p->ctx, &p->text, s, strlen(s));
}

static lc_status put_turn(page *p, const lc_tokenizer *t, const char *role, const char *content) {
  LC_TRY(put(p, p->k->open));
  LC_TRY(put(p, role));
  LC_TRY(put(p, p->k->between));
  int64_t span[2] = {(int64_t)p->text.n, 0};
  LC_TRY(t->nfc ? lc_nfc(p->ctx, content, strlen(content), &p->text)
                : put(p, content)); /* offsets are in the normalised text */
  LC_TRY(put(p, p->k->end));
  span[1] = (int64_t)p->text.n;
  if (strcmp(role, "assistant") == 0) LC_TRY(lc_bytes_add(p->ctx, &p->spans, span, sizeof span));
  return put(p, p->k->after);
}

/* Marks the ids that overlap a span; both lists ascend. */
static lc_status put_mask(page *p, const lc_bytes *ends, lc_ids *mask) {
  const int64_t *span = (const int64_t *)p->spans.data, *end = (const int64_t *)ends->data;
  size_t n_spans = p->spans.n / sizeof(int64_t[2]), n = ends->n / sizeof *end, k = 0;
  for (size_t i = 0; i < n; i++) {
    int64_t from = i ? end[i - 1] : 0;
    while (k < n_spans && span[2 * k + 1] <= from) k++;
    LC_TRY(lc_ids_push(p->ctx, mask, k < n_spans && end[i] > span[2 * k]));
  }
  return LC_OK;
}

lc_status lc_template_render(const lc_template *k, const lc_tokenizer *t, const lc_message *m, int n,
                             bool add_prompt, lc_ids *ids, lc_ids *mask) {
  page p = {.ctx = t->ctx, .k = k};
  lc_bytes ends = {0};
  lc_status st = LC_OK;
  if (n > 0 && k->system && strcmp(m[0].role, "system") != 0) LC_GO(put_turn(&p, t, "system", k->system));
  for (int i = 0; i < n; i++) {
    size_t bad;
    if (!lc_utf8_valid(m[i].content, strlen(m[i].content), &bad)) {
      st = lc_fail(t->ctx, "message %d is not UTF-8: byte %zu", i + 1, bad);
      goto done;
    }
    LC_GO(put_turn(&p, t, m[i].role, m[i].content));
  }
  if (add_prompt) {
    LC_GO(put(&p, k->open));
    LC_GO(put(&p, "assistant"));
    LC_GO(put(&p, k->between));
  }
  LC_GO(lc_tokenize_ends(t, p.text.data, p.text.n, true, ids, mask ? &ends : NULL));
  if (mask) LC_GO(put_mask(&p, &ends, mask));
done:
  lc_free(t->ctx, p.text.data);
  lc_free(t->ctx, p.spans.data);
  lc_free(t->ctx, ends.data);
  return st;
}
