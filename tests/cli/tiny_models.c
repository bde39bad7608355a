/* For tests/cli/run.sh:
 *   tiny_models make DIR          DIR/llama, DIR/gpt2 and DIR/encoder (Hugging Face), DIR/llama.gguf, DIR/missing (a tensor is not there)
 *   tiny_models has FIELD...      do the JSON objects on stdin (one a line) have these fields? EVENT:FIELD asks the lines of an event */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "support/tiny_model.h"

static int make(const char *dir) {
  lc_ctx *ctx;
  char why[256];
  if (lc_ctx_new(1, &ctx, why)) {
    fprintf(stderr, "%s\n", why);
    return 1;
  }
  lc_tiny llama = LC_TINY_LLAMA, gpt2 = LC_TINY_GPT2, missing = LC_TINY_LLAMA, encoder = LC_TINY_ROBERTA;
  missing.drop = "model.layers.1.mlp.up_proj.weight";
  encoder.config = "{\"architectures\": [\"RobertaModel\"]}"; /* what the file holds: no head */
  lc_status st = lc_mkdirs(ctx, dir);
  if (!st) st = lc_tiny_hf(ctx, &llama, lc_tiny_path(dir, "llama"));
  if (!st) st = lc_tiny_hf(ctx, &gpt2, lc_tiny_path(dir, "gpt2"));
  if (!st) st = lc_tiny_hf(ctx, &encoder, lc_tiny_path(dir, "encoder"));
  if (!st) st = lc_tiny_gguf(ctx, &llama, lc_tiny_path(dir, "llama.gguf"));
  if (!st) st = lc_tiny_hf(ctx, &missing, lc_tiny_path(dir, "missing"));
  if (st) fprintf(stderr, "%s\n", lc_error(ctx));
  lc_ctx_free(ctx);
  return st != 0;
}

static bool line_has(const char *line, const char *event, const char *key, bool *asked) {
  json_t *o = json_loads(line, 0, NULL);
  const char *kind = json_string_value(json_object_get(o, "event"));
  bool mine = o && (!event || (kind && !strcmp(kind, event))), found = mine && json_object_get(o, key);
  *asked |= mine;
  json_decref(o);
  return !mine || found;
}

static int has(int n, char **field) {
  static char text[1 << 22];
  size_t size = fread(text, 1, sizeof text - 1, stdin);
  text[size] = 0;
  for (int i = 0; i < n; i++) {
    static char copy[sizeof text];
    char event[64] = "", *colon = strchr(field[i], ':'), *save = NULL;
    const char *key = colon ? colon + 1 : field[i];
    bool asked = false;
    if (colon) snprintf(event, sizeof event, "%.*s", (int)(colon - field[i]), field[i]);
    memcpy(copy, text, size + 1);
    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
      if (!line_has(line, *event ? event : NULL, key, &asked))
        return fprintf(stderr, "no '%s' in: %s\n", field[i], line), 1;
    if (!asked) return fprintf(stderr, "no line for '%s'\n", field[i]), 1;
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "make")) return make(argv[2]);
  if (argc > 2 && !strcmp(argv[1], "has")) return has(argc - 2, argv + 2);
  fprintf(stderr, "tiny_models make DIR | has FIELD...\n");
  return 2;
}
