/* lacuna tokenize: ids of a text (argument, file or stdin), or the text of ids; --lines: a JSON string a line in, {"ids":[…]} a line out. */
#include "cli/cli.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  char *model, *file;
  bool decode, lines, special;
} self_t;
static const lc_option options[] = {{"model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL,
                                     "MODEL", "a Hugging Face directory or a GGUF file"},
                                    {"file", LC_OPT_STRING, offsetof(self_t, file), NULL, 0, 0, NULL, "FILE",
                                     "take the text from a file (-: stdin)"},
                                    {"decode", LC_OPT_BOOL, offsetof(self_t, decode), "false", 0, 0, NULL,
                                     NULL, "the other way: ids (5,7,9) to text"},
                                    {"lines", LC_OPT_BOOL, offsetof(self_t, lines), "false", 0, 0, NULL, NULL,
                                     "stdin holds a JSON string (or, to decode, a list) a line"},
                                    {"special", LC_OPT_BOOL, offsetof(self_t, special), "true", 0, 0, NULL,
                                     NULL, "the text of special tokens stands for their ids"},
                                    {0}};

static void print_ids(const lc_cli *cli, const lc_ids *ids) {
  if (cli->common.json) {
    json_t *list = json_array();
    for (int64_t i = 0; i < ids->n; i++) json_array_append_new(list, json_integer(ids->id[i]));
    lc_cli_print_json(json_pack("{s:o}", "ids", list));
    return;
  }
  for (int64_t i = 0; i < ids->n; i++) printf("%s%d", i ? "," : "", ids->id[i]);
  putchar('\n');
}

static lc_status decode_text(lc_cli *cli, const lc_tokenizer *tok, const lc_ids *ids) {
  lc_bytes text = {0};
  lc_status st = lc_detokenize(tok, ids->id, ids->n, false, &text);
  if (!st && cli->common.json) {
    json_t *s = json_stringn(text.data ? text.data : "", text.n);
    if (s)
      lc_cli_print_json(json_pack("{s:o}", "text", s));
    else
      st = lc_fail(cli->ctx,
                   "the ids are no whole UTF-8 text; without --json the bytes are written as they are");
  } else if (!st) {
    fwrite(text.data ? text.data : "", 1, text.n, stdout);
    if (!text.n || text.data[text.n - 1] != '\n') putchar('\n');
  }
  lc_free(cli->ctx, text.data);
  return st;
}

static lc_status one_line(lc_cli *cli, const self_t *s, const lc_tokenizer *tok, const char *line, size_t n,
                          int64_t number) {
  json_error_t e;
  json_t *j = json_loadb(line, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
  lc_ids ids = {0};
  lc_status st = LC_OK;
  bool json = cli->common.json;
  if (!j || (s->decode ? !json_is_array(j) : !json_is_string(j)))
    st =
        lc_fail(cli->ctx, "line %lld is no JSON %s", (long long)number, s->decode ? "list of ids" : "string");
  else if (s->decode) {
    for (size_t i = 0; !st && i < json_array_size(j); i++)
      st = lc_ids_push(cli->ctx, &ids, (int32_t)json_integer_value(json_array_get(j, i)));
    cli->common.json = true;
    if (!st) st = decode_text(cli, tok, &ids);
  } else {
    st = lc_tokenize(tok, json_string_value(j), json_string_length(j), s->special, &ids);
    cli->common.json = true;
    if (!st) print_ids(cli, &ids);
  }
  cli->common.json = json;
  lc_ids_free(cli->ctx, &ids);
  json_decref(j);
  return st;
}

static lc_status all_lines(lc_cli *cli, const self_t *s, const lc_tokenizer *tok) {
  char *line = NULL;
  size_t cap = 0;
  lc_status st = LC_OK;
  int64_t number = 0;
  for (ssize_t n; !st && (n = getline(&line, &cap, stdin)) >= 0;)
    st = one_line(cli, s, tok, line, (size_t)n, ++number);
  free(line);
  return st;
}

static lc_status run(lc_cli *cli, void *self) {
  self_t *s = self;
  lc_loaded l;
  lc_ids ids = {0};
  char *text = NULL;
  size_t n = 0;
  LC_TRY(lc_cli_load(cli, s->model, LC_F32, LC_PATCH, true, &l));
  lc_status st = LC_OK;
  if (s->lines) {
    st = all_lines(cli, s, l.tok);
    goto done;
  }
  if (s->file || !cli->n_word)
    LC_GO(lc_read_file(cli->ctx, !s->file || !strcmp(s->file, "-") ? "/dev/stdin" : s->file, (size_t)1 << 32,
                       &text, &n));
  const char *given = text ? text : cli->word[0];
  if (!text) n = strlen(given);
  if (s->decode) {
    while (text && n && (text[n - 1] == '\n' || text[n - 1] == ' ')) text[--n] = 0;
    LC_GO(lc_cli_ids(cli, given, 0, lc_tokenizer_size(l.tok), &ids));
    st = decode_text(cli, l.tok, &ids);
  } else {
    st = lc_tokenize(l.tok, given, n, s->special, &ids);
    if (s->file) st = lc_in_file(cli->ctx, s->file, st);
    LC_GO(st);
    print_ids(cli, &ids);
  }
done:
  lc_free(cli->ctx, text);
  lc_ids_free(cli->ctx, &ids);
  lc_cli_unload(&l);
  return st;
}

const lc_command lc_cmd_tokenize = {.name = "tokenize",
                                    .usage = "-m MODEL [TEXT]",
                                    .title = "token ids of a text, and back",
                                    .options = options,
                                    .self_size = sizeof(self_t),
                                    .words = 1,
                                    .run = run};
