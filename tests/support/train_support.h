/* For tests of training: a tiny model with data of unequal rows, and runs described by options as text. */
#ifndef LC_TEST_TRAIN_SUPPORT_H
#define LC_TEST_TRAIN_SUPPORT_H
#include "support/tiny_model.h"
#include "train/objective.h"

typedef struct {
  lc_ctx *ctx;
  char *dir;
  lc_model *model;
  lc_tokenizer *tok;
  lc_dataset *data, *eval;
} t_world;
/* LC_TINY_LLAMA, 24 rows of 12 to 60 tokens, 6 rows to evaluate on. */
void t_world_open(t_world *, int threads);
void t_world_close(t_world *);

typedef struct {
  const char *method, *out; /* out: a name in the world's directory */
  const char *opts;         /* "steps=6 batch=4": of the run; f32 and a constant rate of 1e-2 unless told */
  const char *set;          /* of the method */
  bool no_eval, resume, overwrite;
  const char *from;
  lc_event_fn event;
  void *arg;
  const lc_method *row;          /* instead of method's: hooks of the test's own */
  const lc_dataset *data, *eval; /* instead of the world's */
  const char *objective, *with;  /* NULL: next-token loss */
} t_spec;
lc_status t_train(t_world *, const t_spec *); /* its own net */
/* "OUT/name" in the world's directory (of eight rotating buffers). */
const char *t_out(const t_world *, const char *out, const char *name);
bool t_same_files(const char *a, const char *b);
/* First column of the first row, as text; "" when none. Four rotating buffers. */
const char *t_query(const t_world *, const char *out, const char *sql);
int t_lines(const char *path, const char *with); /* lines that hold a word */
#endif
