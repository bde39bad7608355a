/* lacuna: sparse fine-tuning of pretrained networks. The library for users.
 *
 * Six opaque types. A context holds threads, memory accounts and the last error. A model is the files of a
 * pretrained network: constant, and may be shared by several nets. A net is what one user makes of a model:
 * it carries adapters and what is trained. A session is a net with a key/value cache, for generation. An
 * adapter is a named change of a net's weights that can be scaled and taken off. Options describe a run.
 *
 * A function that can fail returns lc_status: LC_OK, or something else with one sentence in lc_error(). What
 * ..._open or ..._new gives is freed by its ..._free, ..._close or ..._remove; freeing NULL is fine; what a
 * pointer to const gives is borrowed. Close in the reverse order: sessions, nets, models, context. One
 * context, and everything made with it, belongs to one thread of control at a time; inside, it uses its own
 * workers. Text is UTF-8. Token ids are int32. Nothing here prints, exits or aborts. */
#ifndef LACUNA_H
#define LACUNA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef int lc_status;
#ifndef LC_CORE_H /* the library's own files have the same four there */
enum {
  LC_OK = 0,
  LC_FAILED = 1,
  LC_USAGE = 2 /* an argument is wrong */,
  LC_STOPPED = 3 /* stopped on request, state saved */
};
#endif
typedef struct lc_ctx lc_ctx;
typedef struct lc_model lc_model;
typedef struct lc_net lc_net;
typedef struct lc_adapter lc_adapter;
typedef struct lc_session lc_session;
typedef struct lc_options lc_options;

/* ---- context ---- */

/* Makes a context with `threads` workers; 0: the physical cores that this process may use. A failure's
 * sentence goes to why (256 bytes, or NULL). */
lc_status lc_ctx_new(int threads, lc_ctx **out, char *why);
/* Frees a context, after everything made with it. */
void lc_ctx_free(lc_ctx *);
/* Gives the sentence of the last failure, "" when there was none. Borrowed until the next failure. */
const char *lc_error(const lc_ctx *);
/* Asks what is running (training, generation) to save what it must and return LC_STOPPED. The request ends
 * with the call that it stopped. May be called from a signal handler. signo > 0. */
void lc_request_stop(lc_ctx *, int signo);
/* Gives the library's version, "0.1.0". */
const char *lc_version(void);

/* ---- model and net ---- */

/* Opens a Hugging Face directory or a GGUF file. The files are mapped, not copied, and must stay as they are.
 */
lc_status lc_model_open(lc_ctx *, const char *path, lc_model **out);
void lc_model_close(lc_model *);
/* Counts the parameters; a tied head counts once. */
int64_t lc_model_parameters(const lc_model *);
/* Gives the vocabulary's size V: logits have so many entries, ids are below it. */
int64_t lc_model_vocabulary(const lc_model *);
/* Makes a net that computes in "f32", "bf16" or "auto" (bf16 where the processor multiplies it). The model
 * must outlive it. */
lc_status lc_net_open(const lc_model *, const char *dtype, lc_net **out);
void lc_net_free(lc_net *);
/* Writes the net's effective weights, adapters merged, as a Hugging Face directory, or GGUF when the path
 * ends in .gguf. dtype: "f32", "f16", "bf16", or "q8_0" (GGUF only). Appears whole or not at all. */
lc_status lc_net_write(lc_net *, const char *path, const char *dtype);

/* ---- adapters ---- */

/* Reads an adapter (PEFT's LoRA or SHiRA, or lacuna's own) and puts it on the net. apply: "patch" (added
 * while weights are read: the base stays untouched and is never copied), "in-place" (a private copy of the
 * weights: fastest to decode), or "aside" (a sparse product beside). The net owns it; lc_net_free takes it
 * off too. On failure nothing has changed. */
lc_status lc_adapter_open(lc_net *, const char *dir, float scale, const char *apply, lc_adapter **out);
/* Sets an adapter's scale; 0 gives the base's outputs bit for bit. */
lc_status lc_adapter_scale(lc_adapter *, float scale);
/* Takes an adapter off its net and frees it: the net is what it was before. */
lc_status lc_adapter_remove(lc_adapter *);
/* Writes an adapter into a directory. layout: "lora", "shira" (PEFT's) or "native" (lacuna's, smallest for
 * sparse ones). */
lc_status lc_adapter_write(const lc_adapter *, const char *layout, const char *dir);

/* ---- training ---- */

/* Makes options of a run by a method ("full", "lora", "shira", "spiel", ...: `lacuna methods`), all at their defaults. */
lc_status lc_options_new(lc_ctx *, const char *method, lc_options **out);
void lc_options_free(lc_options *);
/* Sets an option of the run ("steps", "lr", "density", ...: `lacuna train --help`) or of the method ("mask":
 * `lacuna methods NAME`) from text; "objective" chooses what is minimised ("dpo": `lacuna objectives`), and "with.beta"
 * is its option beta. An unknown key or a value out of range is LC_USAGE, and the sentence
 * suggests the nearest name. */
lc_status lc_options_put(lc_options *, const char *key, const char *value);

/* Called with each event of a run: kind is "start", "step", "eval", "sample", "checkpoint", "phase" or "done", json
 * the event as one JSON object (the line of `lacuna train --json`). Non-zero stops the run as lc_request_stop
 * does. */
typedef int (*lc_progress_fn)(void *arg, const char *kind, const char *json);
typedef struct {
  size_t size; /* sizeof this struct: set by the _INIT */
  const char *
      data; /* text, or JSONL with text, prompt+completion, messages, prompt+chosen+rejected or prompt+answer; for a
                            model with labels ("task") text+label or tokens+tags, or pictures (docs/formats.md) */
  const char *eval_data; /* held-out rows, or NULL */
  const char *out;       /* directory of the result: adapter or model, recipe, history, checkpoints */
  bool resume;           /* go on from out's last checkpoint, to the bits of a run that never stopped */
  bool overwrite;        /* replace what out holds, if it is a run */
} lc_job;
#define LC_JOB_INIT                                                                                          \
  { .size = sizeof(lc_job) }
/* Trains a net. The computing type is the options' ("dtype"). What was trained stays on the net. LC_STOPPED:
 * stopped on request; it can be resumed. */
lc_status lc_fine_tune(lc_net *, const lc_options *, const lc_job *, lc_progress_fn /* or NULL */, void *arg);

/* ---- evaluation ---- */

typedef struct {
  double perplexity, loss /* mean nats a token */, standard_error /* of the perplexity */;
  int64_t tokens /* scored */;
} lc_result;
/* Measures the perplexity of text (n bytes) in windows of `context` tokens (0: 512). The first token of a
 * window is not scored, nor a short last one. */
lc_status lc_perplexity(lc_net *, const char *text, size_t n, int64_t context, lc_result *out);

/* ---- tokens ---- */

/* Turns text (n bytes) into ids: at most `room` are written to ids, *count is how many there are. Names of
 * special tokens in the text are plain text unless special is set. ids may be NULL when room is 0. */
lc_status lc_text_to_ids(lc_net *, const char *text, size_t n, bool special, int32_t *ids, int64_t room,
                         int64_t *count);
/* Turns n ids into bytes: at most `room` are written to text (no end mark), *count is how many there are. */
lc_status lc_ids_to_text(lc_net *, const int32_t *ids, int64_t n, char *text, size_t room, size_t *count);

/* ---- sessions and generation ---- */

/* Makes a session with a cache of `context` positions (0: the model's, at most 2048). The net must outlive it
 * and keep its adapters meanwhile. */
lc_status lc_session_open(lc_net *, int64_t context, lc_session **out);
void lc_session_free(lc_session *);
/* Keeps the first n positions of the cache (0: forgets all). */
void lc_session_truncate(lc_session *, int64_t n);
/* Runs n ids through the net after what the cache holds. Logits go to dst: of the last id (V floats), or with
 * `all` of every id (n×V). */
lc_status lc_session_feed(lc_session *, const int32_t *ids, int64_t n, bool all, float *dst);

/* Receives text as it comes: whole characters, n bytes, no end mark. Non-zero ends generation. */
typedef int (*lc_text_fn)(void *arg, const char *text, size_t n);
typedef struct {
  size_t size;           /* sizeof this struct: set by the _INIT */
  int64_t max_tokens;    /* 128 */
  double temperature;    /* 0.8; 0: greedy, ties to the lower id */
  int64_t top_k;         /* 40; 0: all */
  double top_p, min_p;   /* 0.95, 0.05 */
  double repeat_penalty; /* 1: none */
  uint64_t seed;         /* the same seed gives the same text again */
  bool ignore_eos;
  bool chat;          /* the prompt is a user turn of the model's template */
  const char *system; /* chat: the system turn, or NULL: the template's own */
  const char *const *stop;
  int n_stop; /* strings that end the text and are left out of it */
} lc_generation;
#define LC_GENERATION_INIT                                                                                   \
  {                                                                                                          \
    .size = sizeof(lc_generation), .max_tokens = 128, .temperature = 0.8, .top_k = 40, .top_p = 0.95,        \
    .min_p = 0.05, .repeat_penalty = 1                                                                       \
  }
typedef struct {
  int64_t prompt_tokens, generated_tokens;
  const char *finish_reason; /* "stop", "length" or "callback" */
} lc_generated;
/* Continues a prompt; the cache is forgotten first. fn and stats may be NULL. */
lc_status lc_generate(lc_session *, const char *prompt, const lc_generation *, lc_text_fn fn, void *arg,
                      lc_generated *stats);

#ifdef __cplusplus
}
#endif
#endif
