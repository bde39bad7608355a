/* lacuna ship: what changed from one checkpoint to the next as a small file, and the next checkpoint from it. */
#include "cli/cli.h"
#include "io/ship.h"

typedef struct {
  char *out, *apply;
  int64_t version;
} self_t;
static const lc_option options[] = {
    {"out", LC_OPT_STRING, offsetof(self_t, out), NULL, 0, 0, NULL, "FILE", "what is written"},
    {"version", LC_OPT_INT, offsetof(self_t, version), "0", 0, 1e18, NULL, "N",
     "number of the checkpoint after"},
    {"apply", LC_OPT_STRING, offsetof(self_t, apply), NULL, 0, 0, NULL, "FILE",
     "write the checkpoint that FILE makes of BEFORE (of nothing, when it is an anchor)"},
    {0}};

static lc_status run(lc_cli *cli, void *self) {
  const self_t *s = self;
  const char *first = cli->n_word ? cli->word[0] : NULL, *second = cli->n_word > 1 ? cli->word[1] : NULL;
  lc_ship ship = {0};
  if (!s->out) return lc_usage(cli->ctx, "-o FILE is needed");
  if (s->apply && lc_cli_given(cli, "version"))
    return lc_usage(cli->ctx, "--version numbers a file that is written; --apply reads it from FILE");
  if (s->apply ? second != NULL : first == NULL)
    return lc_usage(cli->ctx, s->apply ? "--apply FILE takes one checkpoint"
                                       : "BEFORE and AFTER are needed, or one checkpoint for an anchor");
  LC_TRY(s->apply ? lc_ship_apply(cli->ctx, first, s->apply, s->out, &ship)
                  : lc_ship_write(cli->ctx, second ? first : NULL, second ? second : first, s->version,
                                  s->out, &ship));
  if (cli->common.json)
    lc_cli_print_json(json_pack("{s:b, s:I, s:I, s:s}", "anchor", ship.anchor, "version",
                                (json_int_t)ship.version, "changed", (json_int_t)ship.changed, "out",
                                s->out));
  else
    printf("%s: %s %lld, %lld values changed\n", s->out, ship.anchor ? "anchor" : "version",
           (long long)ship.version, (long long)ship.changed);
  return LC_OK;
}

const lc_command lc_cmd_ship = {.name = "ship",
                                .usage = "[BEFORE] AFTER -o FILE | --apply FILE [BEFORE] -o AFTER",
                                .title = "the changed values between two safetensors checkpoints as a file",
                                .options = options,
                                .self_size = sizeof(self_t),
                                .words = 2,
                                .run = run};
