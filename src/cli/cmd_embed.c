/* lacuna embed: one vector a text, as the model's sentence-transformers files say. */
#include "infer/embed.h"
#include "cli/cli.h"
#include <string.h>

typedef struct {
  char *model, *adapter, *file, *dtype;
} self_t;
static const lc_option options[] = {
    {"model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL, "MODEL",
     "the directory of an encoder"},
    {"adapter", LC_OPT_STRING, offsetof(self_t, adapter), NULL, 0, 0, NULL, "[NAME=]DIR[:SCALE]",
     "apply an adapter (repeatable)"},
    {"file", LC_OPT_STRING, offsetof(self_t, file), NULL, 0, 0, NULL, "FILE", "a text a line (-: stdin)"},
    {"dtype", LC_OPT_STRING, offsetof(self_t, dtype), "f32", 0, 0, NULL, "T", "compute in f32, bf16 or auto"},
    {0}};

/* The lines of a text, without their ends; *n of them (lc_free). */
static lc_status lines_of(lc_cli *cli, const char *text, size_t size, lc_embed_text **out, int64_t *n) {
  int64_t most = 1;
  for (size_t i = 0; i < size; i++) most += text[i] == '\n';
  *n = 0;
  *out = lc_alloc_n(cli->ctx, LC_MEM_OTHER, (size_t)most, sizeof **out);
  if (!*out) return LC_FAILED;
  for (size_t at = 0; at < size;) {
    const char *end = memchr(text + at, '\n', size - at);
    size_t k = end ? (size_t)(end - text) - at : size - at;
    const size_t next = at + k + 1;
    if (k && text[at + k - 1] == '\r') k--;
    (*out)[(*n)++] = (lc_embed_text){text + at, k};
    at = next;
  }
  return *n ? LC_OK : lc_usage(cli->ctx, "there is no text");
}

static void print(const lc_cli *cli, const lc_embed_text *t, const float *v, int64_t C) {
  if (!cli->common.json) {
    for (int64_t c = 0; c < C; c++) printf("%s%.7g", c ? " " : "", (double)v[c]);
    putchar('\n');
    return;
  }
  json_t *list = json_array();
  for (int64_t c = 0; c < C; c++) json_array_append_new(list, json_real((double)v[c]));
  lc_cli_print_json(json_pack("{s:o, s:o}", "text", json_stringn(t->text, t->n), "embedding", list));
}

static lc_status run(lc_cli *cli, void *self) {
  self_t *s = self;
  lc_loaded l;
  lc_dtype dtype;
  lc_embed_opts o;
  lc_embed_text *text = NULL;
  char *read = NULL;
  float *out = NULL;
  size_t size = 0;
  int64_t n = 0;
  static const char *const pooling[] = {"mean", "first token", "maximum", "sum over the root of the length",
                                        "last token"};
  LC_TRY(lc_cli_dtype(cli, s->dtype, &dtype));
  if (!s->file == !cli->n_word) return lc_usage(cli->ctx, "a text or --file FILE is needed, and one of them");
  LC_TRY(lc_cli_load_for(cli, s->model, &(lc_head_opts){.task = LC_TASK_NONE}, dtype, LC_PATCH, true, &l));
  const int64_t C = l.model->config.C;
  lc_status st = LC_OK;
  LC_GO(lc_embed_config(l.model, &o));
  if (!o.from_files)
    lc_cli_note(cli, "%s has no modules.json: the mean over all tokens, normalised", s->model);
  else
    lc_cli_note(cli, "pooling: %s%s, at most %lld tokens a text", pooling[o.pooling],
                o.normalize ? ", normalised" : "", (long long)o.max);
  if (s->file)
    LC_GO(
        lc_read_file(cli->ctx, strcmp(s->file, "-") ? s->file : "/dev/stdin", (size_t)1 << 32, &read, &size));
  if (s->file)
    LC_GO(lines_of(cli, read, size, &text, &n));
  else
    text = lc_alloc(cli->ctx, LC_MEM_OTHER, sizeof *text), n = 1;
  if (!text) LC_GO(LC_FAILED);
  if (!s->file) *text = (lc_embed_text){cli->word[0], strlen(cli->word[0])};
  out = lc_alloc_n(cli->ctx, LC_MEM_OTHER, (size_t)(n * C), sizeof *out);
  if (!out) LC_GO(LC_FAILED);
  LC_GO(lc_embed(l.net, l.tok, &o, text, n, out));
  for (int64_t i = 0; i < n; i++) print(cli, &text[i], out + i * C, C);
done:
  lc_free(cli->ctx, out);
  lc_free(cli->ctx, text);
  lc_free(cli->ctx, read);
  lc_cli_unload(&l);
  return st;
}

const lc_command lc_cmd_embed = {.name = "embed",
                                 .usage = "-m MODEL [TEXT]",
                                 .title = "sentence embeddings of an encoder",
                                 .options = options,
                                 .self_size = sizeof(self_t),
                                 .words = 1,
                                 .repeatable = "adapter",
                                 .run = run};
