/* lacuna report: a run's history as one HTML page. */
#include "cli/cli.h"
#include "cli/report.h"

typedef struct {
  char *out;
} self_t;
static const lc_option options[] = {
    {"out", LC_OPT_STRING, offsetof(self_t, out), NULL, 0, 0, NULL, "FILE", "the page; else RUN/report.html"},
    {0}};

static lc_status run(lc_cli *cli, void *self) {
  self_t *s = self;
  lc_report r;
  if (cli->n_word != 1) return lc_usage(cli->ctx, "one RUN is expected: the output directory of a training");
  LC_TRY(lc_report_read(cli->ctx, cli->word[0], &r));
  char *path = s->out ? lc_strdup(cli->ctx, s->out) : lc_path_join(cli->ctx, cli->word[0], "report.html");
  lc_status st = path ? lc_report_write(&r, path) : LC_FAILED;
  if (!st && cli->common.json)
    lc_cli_print_json(json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:b}", "output", path, "run", cli->word[0],
                                "method", r.method, "steps", (json_int_t)r.n_step, "evals",
                                (json_int_t)r.n_eval, "tensors", (json_int_t)r.n_tensor, "finished",
                                *r.finished != 0));
  else if (!st)
    printf("%s\n", path);
  lc_free(cli->ctx, path);
  lc_report_free(&r);
  return st;
}

const lc_command lc_cmd_report = {.name = "report",
                                  .usage = "RUN [-o FILE.html]",
                                  .title = "a run's curves, samples and placement as one HTML page",
                                  .options = options,
                                  .self_size = sizeof(self_t),
                                  .words = 1,
                                  .run = run};
