/* Flags from tables: --key value, --key=value, --flag and --no-flag, one-letter names, words. */
#include "cli/cli.h"
#include <stdlib.h>
#include <string.h>

const lc_option lc_common_options[] = {
    {"json", LC_OPT_BOOL, offsetof(lc_common, json), "false", 0, 0, NULL, NULL,
     "one JSON object (or one a line) on stdout"},
    {"seed", LC_OPT_INT, offsetof(lc_common, seed), "42", 0, 9e18, NULL, "N", "of everything random"},
    {"threads", LC_OPT_INT, offsetof(lc_common, threads), "0", 0, 256, NULL, "N",
     "workers; 0: the machine's cores"},
    {"quiet", LC_OPT_BOOL, offsetof(lc_common, quiet), "false", 0, 0, NULL, NULL, "only results and errors"},
    {"help", LC_OPT_BOOL, offsetof(lc_common, help), "false", 0, 0, NULL, NULL, "this text"},
    {0}};

/* One-letter names mean the same in every command that has the flag. */
static const struct {
  char letter;
  const char *name;
} letters[] = {{'m', "model"}, {'d', "data"},       {'o', "out"},  {'a', "adapter"}, {'p', "prompt"},
               {'f', "file"},  {'n', "max-tokens"}, {'h', "help"}, {'t', "threads"}};

typedef struct {
  const lc_option *row;
  bool common;
} found;

static found find_flag(const lc_command *c, const char *key) {
  const lc_option *row = c->options ? lc_options_find(c->options, key) : NULL;
  if (!row && c->more) row = lc_options_find(c->more, key);
  if (row) return (found){row, false};
  return (found){lc_options_find(lc_common_options, key), true};
}

static int names_of(const lc_option *t, const char **names, int n, int cap) {
  for (; t && t->name && n < cap; t++) names[n++] = t->name;
  return n;
}

static lc_status unknown(lc_cli *cli, const char *arg) {
  const char *names[192];
  int n = names_of(cli->command->options, names, 0, 192);
  n = names_of(cli->command->more, names, n, 192);
  n = names_of(lc_common_options, names, n, 192);
  const char *near = lc_nearest(arg + strspn(arg, "-"), names, n);
  return lc_usage(cli->ctx, "there is no flag '%s'%s%s%s", arg, near ? "; did you mean '--" : "",
                  near ? near : "", near ? "'?" : "");
}

static lc_status store(lc_cli *cli, const char *key, const char *value) {
  if (cli->n_flag == (int)(sizeof cli->flag / sizeof *cli->flag))
    return lc_usage(cli->ctx, "more than %d flags", cli->n_flag);
  cli->flag[cli->n_flag++] = (lc_flag){key, value};
  return LC_OK;
}

/* --key…: returns how many further arguments were used in *used. */
static lc_status long_flag(lc_cli *cli, const char *arg, const char *next, int *used) {
  char key[64];
  const char *eq = strchr(arg, '=');
  size_t n = eq ? (size_t)(eq - arg) - 2 : strlen(arg) - 2;
  if (n >= sizeof key) return unknown(cli, arg);
  memcpy(key, arg + 2, n);
  key[n] = 0;
  found f = find_flag(cli->command, key);
  if (!f.row && !strncmp(key, "no-", 3) && !eq) {
    f = find_flag(cli->command, key + 3);
    if (f.row && f.row->type == LC_OPT_BOOL) return store(cli, f.row->name, "false");
    f.row = NULL;
  }
  if (!f.row) return unknown(cli, arg);
  if (eq) return store(cli, f.row->name, eq + 1);
  if (f.row->type == LC_OPT_BOOL) return store(cli, f.row->name, "true");
  if (f.row->arg && !strncmp(f.row->arg, "[=", 2))
    return store(cli, f.row->name, ""); /* an optional value comes with '=' only */
  if (!next)
    return lc_usage(cli->ctx, "--%s needs a value (%s)", f.row->name, f.row->arg ? f.row->arg : "VALUE");
  *used = 1;
  return store(cli, f.row->name, next);
}

static lc_status short_flag(lc_cli *cli, const char *arg, const char *next, int *used) {
  const char *name = NULL;
  for (size_t i = 0; i < sizeof letters / sizeof *letters; i++)
    if (letters[i].letter == arg[1]) name = letters[i].name;
  found f = name ? find_flag(cli->command, name) : (found){0};
  if (!f.row) return unknown(cli, arg);
  if (f.row->type == LC_OPT_BOOL) return arg[2] ? unknown(cli, arg) : store(cli, f.row->name, "true");
  if (arg[2]) return store(cli, f.row->name, arg + 2);
  if (!next) return lc_usage(cli->ctx, "-%c needs a value (%s)", arg[1], f.row->arg ? f.row->arg : "VALUE");
  *used = 1;
  return store(cli, f.row->name, next);
}

lc_status lc_cli_parse(lc_cli *cli, int argc, char **argv) {
  bool words_only = false;
  for (int i = 0; i < argc; i++) {
    const char *arg = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
    int used = 0;
    if (!words_only && !strcmp(arg, "--"))
      words_only = true;
    else if (!words_only && !strncmp(arg, "--", 2))
      LC_TRY(long_flag(cli, arg, next, &used));
    else if (!words_only && arg[0] == '-' && arg[1])
      LC_TRY(short_flag(cli, arg, next, &used));
    else if (cli->n_word == cli->command->words)
      return lc_usage(cli->ctx, "'%s' is one word too many (usage: lacuna %s %s)", arg, cli->command->name,
                      cli->command->usage);
    else
      cli->word[cli->n_word++] = arg;
    i += used;
  }
  return LC_OK;
}

static bool may_repeat(const lc_command *c, const char *key) {
  size_t n = strlen(key);
  for (const char *at = c->repeatable; at && (at = strstr(at, key)); at += n)
    if ((at == c->repeatable || at[-1] == ' ') && (!at[n] || at[n] == ' ')) return true;
  return false;
}

lc_status lc_cli_apply(lc_cli *cli, void *self) {
  const lc_command *c = cli->command;
  for (int i = 0; i < cli->n_flag; i++) {
    const char *key = cli->flag[i].key;
    for (int k = 0; k < i; k++)
      if (!strcmp(cli->flag[k].key, key) && !may_repeat(c, key))
        return lc_usage(cli->ctx, "--%s is given twice", key);
    if (c->options && lc_options_find(c->options, key))
      LC_TRY(lc_options_set(cli->ctx, c->options, c->name, self, key, cli->flag[i].value));
    else if (c->more && lc_options_find(c->more, key))
      LC_TRY(
          lc_options_set(cli->ctx, c->more, c->name, (char *)self + c->more_offset, key, cli->flag[i].value));
    if (lc_options_find(lc_common_options, key))
      LC_TRY(lc_options_set(cli->ctx, lc_common_options, c->name, &cli->common, key, cli->flag[i].value));
  }
  return LC_OK;
}

bool lc_cli_given(const lc_cli *cli, const char *key) {
  return lc_cli_value(cli, key, 0) != NULL;
}

const char *lc_cli_value(const lc_cli *cli, const char *key, int i) {
  for (int k = 0; k < cli->n_flag; k++)
    if (!strcmp(cli->flag[k].key, key) && i-- == 0) return cli->flag[k].value;
  return NULL;
}

/* ---- help ---- */

static char letter_of(const char *name) {
  for (size_t i = 0; i < sizeof letters / sizeof *letters; i++)
    if (!strcmp(letters[i].name, name)) return letters[i].letter;
  return 0;
}

void lc_cli_option_help(const lc_option *t, FILE *f) {
  for (; t && t->name; t++) {
    char left[96];
    char l = letter_of(t->name);
    bool flag = t->type == LC_OPT_BOOL, on = flag && t->def && !strcmp(t->def, "true");
    const char *arg = flag ? "" : t->choices ? t->choices : t->arg ? t->arg : "VALUE";
    snprintf(left, sizeof left, "%c%c%s --%s%s%s%s", l ? '-' : ' ', l ? l : ' ', l ? "," : " ",
             on ? "[no-]" : "", t->name, flag || !strncmp(arg, "[=", 2) ? "" : " ", arg);
    fprintf(f, "  %-38s %s", left, t->help);
    if ((!flag || on) && t->def && t->def[0]) fprintf(f, " [%s]", t->def);
    fputc('\n', f);
  }
}

void lc_cli_help(const lc_command *c, FILE *f) {
  fprintf(f, "%s\n\nusage: lacuna %s %s\n\n", c->title, c->name, c->usage);
  lc_cli_option_help(c->options, f);
  lc_cli_option_help(c->more, f);
  for (const lc_option *t = lc_common_options; t->name; t++) {
    lc_option one[2] = {*t, {0}};
    if (!(c->options && lc_options_find(c->options, t->name)) &&
        !(c->more && lc_options_find(c->more, t->name)))
      lc_cli_option_help(one, f);
  }
}

void lc_cli_overview(FILE *f) {
  fprintf(f, "lacuna: sparse fine-tuning\n\nusage: lacuna COMMAND [FLAGS]   (lacuna COMMAND --help)\n\n");
  for (int i = 0; i < lc_n_commands; i++)
    fprintf(f, "  %-10s %s\n", lc_commands[i]->name, lc_commands[i]->title);
}
