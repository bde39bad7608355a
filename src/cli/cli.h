/* cli: one file a subcommand, one table of commands, one parser. A command's flags are option tables over plain structs; help, parsing and the
 * reference come from them. Text on stdout is the result, everything else goes to stderr. */
#ifndef LC_CLI_H
#define LC_CLI_H
#include <jansson.h>
#include "core/options.h"
#include "model/model.h"
#include "train/objective.h"

/* Flags that every command takes. */
typedef struct {
  bool json, quiet, help;
  int64_t threads, seed;
} lc_common;
extern const lc_option lc_common_options[];

typedef struct {
  const lc_option *options;
  void *self;
} lc_flag_table;
typedef struct {
  const char *key, *value;
} lc_flag;
typedef struct lc_command lc_command;
typedef struct {
  lc_ctx *ctx;
  const lc_command *command;
  lc_common common;
  bool seed_given;
  lc_flag flag[256];
  int n_flag; /* in order, repeated ones too; keys as the tables spell them */
  const char *word[3];
  int n_word; /* what is no flag */
} lc_cli;

struct lc_command {
  const char *name, *usage, *title;
  const lc_option *options; /* own flags */
  size_t self_size;
  int words;             /* how many arguments that are no flags it takes, at most */
  const lc_option *more; /* a second table, of a part of self */
  size_t more_offset;
  const char *repeatable; /* "adapter stop": flags that may come several times */
  lc_status (*run)(lc_cli *, void *self);
};
extern const lc_command *const lc_commands[];
extern const int lc_n_commands;

/* ---- args.c ---- */
/* Reads flags into cli->flag and words; unknown ones are LC_USAGE with the nearest name. */
lc_status lc_cli_parse(lc_cli *, int argc, char **argv);
lc_status lc_cli_apply(lc_cli *, void *self); /* the parsed flags to the tables */
bool lc_cli_given(const lc_cli *, const char *key);
const char *lc_cli_value(const lc_cli *, const char *key,
                         int i);              /* the i-th occurrence, NULL past the last */
void lc_cli_help(const lc_command *, FILE *); /* one command */
void lc_cli_overview(FILE *);
void lc_cli_option_help(const lc_option *, FILE *); /* the rows of a table */

/* ---- common.c ---- */
void lc_cli_print_json(json_t *); /* one line on stdout; takes the reference. NULL: see below */
bool lc_cli_json_lost(void);      /* there was a line that could not be made: the command fails in the end */
/* Bytes as a JSON string: tokens may hold half a character, and what is no UTF-8 becomes U+FFFD. */
lc_status lc_cli_json_text(lc_ctx *, const lc_bytes *, json_t **);
void lc_cli_note(const lc_cli *, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));  /* stderr, unless --quiet */
lc_status lc_cli_install_signals(lc_cli *); /* stop requests; a second signal ends at once */
/* "auto": bf16 where the CPU has bf16 products. */
lc_status lc_cli_dtype(lc_cli *, const char *name, lc_dtype *);
lc_status lc_cli_ids(lc_cli *, const char *text, int32_t low, int64_t high,
                     lc_ids *); /* "5,7,9"; range-checked */
/* The values of --stop, which stay the command line's. */
enum { LC_CLI_STOPS = 64 };
lc_status lc_cli_stops(lc_cli *, const char *stop[LC_CLI_STOPS], int *n);
/* Model, net and tokenizer with the adapters of repeated -a [NAME=]PATH[:SCALE]. */
typedef struct {
  lc_model *model;
  lc_net *net;
  lc_tokenizer *tok;
} lc_loaded;
lc_status lc_cli_load(lc_cli *, const char *model, lc_dtype compute, lc_apply, bool tokenizer, lc_loaded *);
/* The same with a head of the caller's choice. */
lc_status lc_cli_sum_adapters(lc_cli *, lc_loaded *,
                              const char *out); /* all adapters of the net as one (convert_adapter.c) */
lc_status lc_cli_adapters_head(
    lc_cli *, lc_head_opts *); /* that the first adapter with one was trained with; lc_head_opts_free */
lc_status lc_cli_load_for(lc_cli *, const char *model, const lc_head_opts *, lc_dtype compute, lc_apply,
                          bool tokenizer, lc_loaded *);
void lc_cli_unload(lc_loaded *);
lc_status lc_cli_adapter_spec(lc_cli *, const char *spec, char **path, float *scale); /* lc_free path */
lc_status lc_cli_outtype(lc_cli *, const char *name,
                         lc_dtype *); /* f32, f16, bf16, q8_0; llama.cpp's spellings */

/* ---- convert_adapter.c ---- */
#define LC_CLI_LAYOUTS "shira|native" /* `layout` is an index into these */
lc_status lc_cli_convert_adapter(lc_cli *, const char *model, const char *adapter, int layout,
                                 const char *base_name, const char *out);
#endif
