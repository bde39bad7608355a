/* lacuna COMMAND: finds the command's row, reads its flags, runs it, and turns its status into an exit status: 0 done, 1 failed, 2 wrong
 * arguments, 128 + signal when interrupted. */
#include "cli/cli.h"
#include "cli/version.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* In the order of `lacuna --help`. */
/* clang-format off */
#define COMMANDS(ROW) \
  ROW(info) ROW(train) ROW(eval) ROW(generate) ROW(embed) ROW(merge) ROW(convert) ROW(diff) \
  ROW(ship) ROW(methods) ROW(objectives) ROW(bench) ROW(report) ROW(tokenize) ROW(logits)
/* clang-format on */
#define DECLARE(name) extern const lc_command lc_cmd_##name;
#define ROW(name)     &lc_cmd_##name,
COMMANDS(DECLARE)
const lc_command *const lc_commands[] = {COMMANDS(ROW)};
const int lc_n_commands = sizeof lc_commands / sizeof *lc_commands;

static void to_stderr(void *arg, lc_log_level level, const char *line) {
  const lc_cli *cli = arg;
  if (level == LC_LOG_WARN || (level == LC_LOG_INFO && !cli->common.quiet))
    fprintf(stderr, "%s%s\n", level == LC_LOG_WARN ? "warning: " : "", line);
}

static const lc_command *find_command(const char *name) {
  for (int i = 0; i < lc_n_commands; i++)
    if (!strcmp(lc_commands[i]->name, name)) return lc_commands[i];
  const char *names[32];
  for (int i = 0; i < lc_n_commands; i++) names[i] = lc_commands[i]->name;
  const char *near = lc_nearest(name, names, lc_n_commands);
  fprintf(stderr, "lacuna: there is no command '%s'%s%s%s\n", name, near ? "; did you mean '" : "",
          near ? near : "", near ? "'?" : "");
  return NULL;
}

/* Sentences of the library may begin with the command's name, which is said already. */
static const char *sentence(const lc_cli *cli) {
  const char *why = lc_error(cli->ctx), *name = cli->command->name;
  const size_t n = strlen(name);
  return !strncmp(why, name, n) && !strncmp(why + n, ": ", 2) ? why + n + 2 : why;
}

/* The number of threads is needed for the context, before anything can be reported through it. */
static int threads_of(int argc, char **argv) {
  for (int i = 0; i < argc; i++) {
    if (!strncmp(argv[i], "--threads=", 10)) return atoi(argv[i] + 10);
    if (!strncmp(argv[i], "-t", 2) && argv[i][2]) return atoi(argv[i] + 2);
    if (i + 1 < argc && (!strcmp(argv[i], "--threads") || !strcmp(argv[i], "-t"))) return atoi(argv[i + 1]);
  }
  return 0;
}

static lc_status run_command(lc_cli *cli, int argc, char **argv) {
  const lc_command *c = cli->command;
  void *self = calloc(1, c->self_size ? c->self_size : 1);
  if (!self) return lc_fail(cli->ctx, "out of memory");
  lc_status st = lc_options_init(cli->ctx, lc_common_options, &cli->common);
  if (!st && c->options) st = lc_options_init(cli->ctx, c->options, self);
  if (!st && c->more) st = lc_options_init(cli->ctx, c->more, (char *)self + c->more_offset);
  if (!st) st = lc_cli_parse(cli, argc, argv);
  if (!st) st = lc_cli_apply(cli, self);
  cli->seed_given = lc_cli_given(cli, "seed");
  if (!st && cli->common.help)
    lc_cli_help(c, stdout);
  else if (!st)
    st = c->run(cli, self);
  if (c->options) lc_options_clear(cli->ctx, c->options, self);
  if (c->more) lc_options_clear(cli->ctx, c->more, (char *)self + c->more_offset);
  free(self);
  return st;
}

int main(int argc, char **argv) {
  if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
    lc_cli_overview(argc < 2 ? stderr : stdout);
    return argc < 2 ? 2 : 0;
  }
  if (!strcmp(argv[1], "--version")) {
    printf("lacuna %s\n", LC_VERSION);
    return 0;
  }
  static lc_cli cli;
  cli.command = find_command(argv[1]);
  if (!cli.command) return 2;
  char why[256];
  lc_status st = lc_ctx_new(threads_of(argc - 2, argv + 2), &cli.ctx, why);
  if (st) {
    fprintf(stderr, "lacuna: %s\n", why);
    return st == LC_USAGE ? 2 : 1;
  }
  lc_set_log(cli.ctx, to_stderr, &cli);
  signal(SIGXFSZ,
         SIG_IGN); /* a file at its size limit is a write that fails, with a sentence and a clean end */
  st = run_command(&cli, argc - 2, argv + 2);
  int code = st == LC_STOPPED ? 128 + lc_stop_requested(cli.ctx) : st;
  if ((fflush(stdout) || ferror(stdout)) && !code) {
    fprintf(stderr, "lacuna %s: standard output cannot be written\n", cli.command->name);
    code = 1;
  }
  if (lc_cli_json_lost() && !code) {
    fprintf(stderr,
            "lacuna %s: a line of JSON is missing: a number is not finite, a name is no UTF-8, or memory ran "
            "out\n",
            cli.command->name);
    code = 1;
  }
  if (st == LC_FAILED || st == LC_USAGE)
    fprintf(stderr, "lacuna %s: %s\n", cli.command->name, sentence(&cli));
  lc_ctx_free(cli.ctx);
  return code;
}
