/* The library from a program of one's own: perplexity of a text, a few steps of SHiRA on it, perplexity and a continuation after.
 *   embed MODEL TEXT-FILE OUT-DIRECTORY */
#include <lacuna.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int on_event(void *arg, const char *kind, const char *json) {
  if (!strcmp(kind, "step")) printf("%s\n", json);
  return 0;
}

static int on_text(void *arg, const char *text, size_t n) {
  fwrite(text, 1, n, stdout);
  return fflush(stdout);
}

static char *read_all(const char *path, size_t *n) {
  FILE *f = fopen(path, "rb");
  char *text = f && !fseek(f, 0, SEEK_END) && (*n = (size_t)ftell(f)) > 0 ? malloc(*n) : NULL;
  if (text && (fseek(f, 0, SEEK_SET) || fread(text, 1, *n, f) != *n)) *n = 0;
  if (f) fclose(f);
  return text;
}

static lc_status use(lc_net *net, lc_options *options, const char *data, const char *out) {
  lc_result before, after;
  lc_session *session = NULL;
  lc_job job = LC_JOB_INIT;
  lc_generation how = LC_GENERATION_INIT;
  size_t n = 0;
  char *text = read_all(data, &n);
  lc_status st = LC_FAILED;
  if (!text) goto done;
  if ((st = lc_perplexity(net, text, n, 128, &before))) goto done;
  job.data = data;
  job.out = out;
  if ((st = lc_options_put(options, "steps", "5")) || (st = lc_options_put(options, "density", "0.01")) ||
      (st = lc_options_put(options, "seq", "64")))
    goto done;
  if ((st = lc_fine_tune(net, options, &job, on_event, NULL))) goto done;
  if ((st = lc_perplexity(net, text, n, 128, &after))) goto done;
  printf("perplexity %.3f -> %.3f over %lld tokens\n", before.perplexity, after.perplexity,
         (long long)after.tokens);
  how.temperature = 0;
  how.max_tokens = 24;
  if ((st = lc_session_open(net, 128, &session))) goto done;
  st = lc_generate(session, "Once upon a time", &how, on_text, NULL, NULL);
  printf("\n");
done:
  lc_session_free(session);
  free(text);
  return st;
}

int main(int argc, char **argv) {
  lc_ctx *ctx;
  lc_model *model = NULL;
  lc_net *net = NULL;
  lc_options *options = NULL;
  char why[256];
  if (argc != 4) return fprintf(stderr, "embed MODEL TEXT-FILE OUT-DIRECTORY\n"), 2;
  if (lc_ctx_new(0, &ctx, why)) return fprintf(stderr, "%s\n", why), 1;
  lc_status st = lc_model_open(ctx, argv[1], &model);
  if (!st) st = lc_net_open(model, "auto", &net);
  if (!st) st = lc_options_new(ctx, "shira", &options);
  if (!st) st = use(net, options, argv[2], argv[3]);
  if (st) fprintf(stderr, "%s\n", *lc_error(ctx) ? lc_error(ctx) : "the text cannot be read");
  lc_options_free(options);
  lc_net_free(net);
  if (model) lc_model_close(model);
  lc_ctx_free(ctx);
  return st;
}
