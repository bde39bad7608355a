/* text: token ids from text and back, chat turns, training rows. One place makes ids, loss mask and stop
 * tokens. */
#ifndef LC_TEXT_H
#define LC_TEXT_H
#include "io/io.h"

/* ---- tokenizer: byte-level BPE from tokenizer.json or GGUF metadata ---- */
typedef struct lc_tokenizer lc_tokenizer;
lc_status lc_tokenizer_from_dir(
    lc_ctx *, const char *hf_dir,
    lc_tokenizer **); /* tokenizer.json, tokenizer_config.json, generation_config.json, config.json */
lc_status lc_tokenizer_from_gguf(lc_ctx *, const lc_gguf *, const char *path,
                                 lc_tokenizer **); /* strings are copied */
void lc_tokenizer_free(lc_tokenizer *);
int64_t lc_tokenizer_size(const lc_tokenizer *); /* ids are below this */
typedef struct {
  int32_t *id;
  int64_t n, cap;
} lc_ids; /* grows; lc_ids_free */
void lc_ids_free(lc_ctx *, lc_ids *);
lc_status lc_ids_push(lc_ctx *, lc_ids *, int32_t);
/* Appends the ids of UTF-8 text. special: the text of special tokens in it becomes their id (else it is plain
 * text; HF's rule for added, non-special tokens holds either way). Invalid UTF-8 is an error that gives the
 * byte offset. A byte without a token is left out, as by the tokenizers library (SmolLM2 has none for six
 * control characters), with one warning. Adds no BOS/EOS. */
lc_status lc_tokenize(const lc_tokenizer *, const char *text, size_t n, bool special, lc_ids *);
/* A text, or a pair of texts (b not NULL), as the network sees it: with the tokenizer's special tokens around, cut to at
 * most max tokens. */
typedef struct lc_framed lc_framed;
/* Appends the bytes of ids to a growing buffer (lc_free); an id out of range is an error. skip_special leaves
 * special tokens out. */
typedef struct {
  char *data;
  size_t n, cap;
} lc_bytes; /* always NUL-terminated when data != NULL */
lc_status lc_bytes_add(lc_ctx *, lc_bytes *, const void *, size_t n);
struct lc_framed {
  lc_ids ids;      /* appended to; the caller frees */
  lc_bytes *types; /* a byte a token: its type; or NULL */
  int64_t first;   /* where the first text begins */
  int64_t around;  /* special tokens */
  bool cut;
};
lc_status lc_tokenize_framed(const lc_tokenizer *, const char *a, size_t na, const char *b, size_t nb,
                             int64_t max, lc_framed *);
lc_status lc_frame_ids(const lc_tokenizer *, const lc_ids *a, const lc_ids *b, int64_t max, lc_framed *);
/* Where UTF-8 is wanted of bytes that need not be: each wrong byte becomes U+FFFD. Appends. */
lc_status lc_utf8_lossy(lc_ctx *, const char *, size_t n, lc_bytes *);
/* Length of the white space character that a UTF-8 text begins with, or ends with; 0: none. */
size_t lc_text_space(const char *, size_t n, bool at_end);
/* Appends the text in lower case, letter by letter. */
lc_status lc_utf8_lower(lc_ctx *, const char *, size_t n, lc_bytes *out);
bool lc_utf8_valid(const char *, size_t n, size_t *bad_at /* may be NULL */);
lc_status lc_detokenize(const lc_tokenizer *, const int32_t *ids, int64_t n, bool skip_special, lc_bytes *);
int32_t lc_token_bos(const lc_tokenizer *); /* -1 when none */
int32_t lc_token_eos(const lc_tokenizer *);
int32_t lc_token_pad(const lc_tokenizer *);
int32_t lc_token_id(const lc_tokenizer *, const char *token); /* exact token text (added or vocabulary); -1 */
bool lc_token_is_special(const lc_tokenizer *, int32_t id);
bool lc_token_adds_bos(const lc_tokenizer *);
/* Ids at which generation stops: generation_config's eos ids, the tokenizer's eos, the template's end of
 * turn. Borrowed. */
const int32_t *lc_token_stops(const lc_tokenizer *, int *n);
/* The model's own template text (NULL when it has none). */
const char *lc_tokenizer_template(const lc_tokenizer *);
/* Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json, (generation_config.json and
 * chat_template.jinja when known) into an output directory: byte copies of an HF base's files, made from
 * metadata for a GGUF base (transformers loads them: same ids). */
lc_status lc_tokenizer_write_dir(const lc_tokenizer *, const char *dir);
/* The byte copies alone, of whatever tokenizer files are there; nothing is parsed. */
lc_status lc_tokenizer_copy_dir(lc_ctx *, const char *from, const char *to);
/* Puts tokenizer.ggml.* and tokenizer.chat_template. */
lc_status lc_tokenizer_write_gguf(const lc_tokenizer *, lc_gguf_writer *);

/* Streaming decode: bytes of complete UTF-8 characters only; the rest is held back until the next call
 * (flush: give all). Bytes that cannot become a character are passed on as they are. id -1: nothing new (to
 * flush). */
typedef struct {
  char held[8];
  int n_held;
} lc_utf8_stream;
lc_status lc_detokenize_next(const lc_tokenizer *, lc_utf8_stream *, int32_t id, bool flush, lc_bytes *);

/* ---- chat ---- */
typedef struct {
  const char *role;
  const char *content;
} lc_message;
/* A template is built in, and chosen by the exact text of the model's own; any other is refused by name. */
typedef struct lc_template lc_template;
lc_status lc_template_for(const lc_tokenizer *,
                          const lc_template **); /* error names the model's template (its first line) */
const char *lc_template_name(const lc_template *);
/* Appends ids and mask (1: this token is a target: assistant content and its end token). add_prompt opens an
 * assistant turn at the end. mask may be NULL. */
lc_status lc_template_render(const lc_template *, const lc_tokenizer *, const lc_message *, int n,
                             bool add_prompt, lc_ids *ids, lc_ids *mask);
int32_t lc_template_end(const lc_template *, const lc_tokenizer *); /* end of turn id */

/* ---- data ---- */
/* One example: ids, and for each id whether it is a target (predicted from the ids before it). */
/* Rows that are no tokens: who holds pictures writes the patches of picture i, a row of `width` floats each; called on
 * workers. */
typedef struct {
  lc_status (*patches)(const void *self, int64_t i, int64_t width, float *dst);
  void (*close)(void *self);
  void *self;
  uint32_t checksum; /* of what it holds */
} lc_picture_source;
typedef struct {
  const int32_t *id;
  const uint8_t *target;
  int64_t n;
  int64_t n_targets /* after the shift: targets at index >= 1 */;
  const int32_t
      *label; /* of rows with labels: a label for each id, -1 none; NULL: the next token is the target */
  const uint8_t *type;               /* token types, beside labels */
  const lc_picture_source *pictures; /* of a picture; else NULL */
  int64_t picture;
} lc_example;
typedef enum {
  LC_ROWS_TEXT_FILE,
  LC_ROWS_TEXT,
  LC_ROWS_COMPLETION,
  LC_ROWS_MESSAGES,
  LC_ROWS_PREFERENCE, /* {"prompt","chosen","rejected"}: two examples, one after the other */
  LC_ROWS_ANSWER, /* {"prompt","answer"}: the prompt alone, without a target; lc_data_answer has the other */
  LC_ROWS_LABELLED, /* {"text","label"} */
  LC_ROWS_TAGGED,   /* {"tokens","tags"} */
  LC_ROWS_PICTURES
} lc_row_kind;
const char *lc_row_kind_name(lc_row_kind);

/* ---- labels of rows for classifiers ---- */
typedef enum {
  LC_LABEL_FIRST,
  LC_LABEL_LAST,
  LC_LABEL_EACH
} lc_label_place; /* which token's row has the label */
typedef struct {
  lc_label_place place;
  int64_t n;
  const char *const *name; /* NULL: numbers only */
} lc_label_set;
enum { LC_LABELS_MOST = 65536 };
typedef struct {
  char **name; /* sorted; NULL when the data has numbers */
  int64_t n;
} lc_label_names;
/* The labels that a file of such rows has. */
lc_status lc_labels_scan(lc_ctx *, const char *path, lc_label_names *);
void lc_label_names_free(lc_ctx *, lc_label_names *);

typedef struct lc_dataset lc_dataset; /* (lc_data is the engine's accessor of values) */
typedef struct {
  int64_t seq;                /* rows are cut at this many tokens (plain text: cut into such rows) */
  bool skip_bad;              /* count malformed rows and go on, instead of refusing */
  bool whole_text;            /* plain text as one example (perplexity) */
  const lc_label_set *labels; /* rows are {"text", "label"} or {"tokens", "tags"}; NULL: next-token rows */
} lc_data_opts;
/* Reads text or JSONL ({"text"}, {"prompt","completion"} strings as they stand plus the end token,
 * {"messages"}, {"prompt","chosen","rejected"}, {"prompt","answer"}); kind recognised from the first row and required of all. Blank lines skipped. Rows cut, and
 * dropped for want of a target, are counted. */
lc_status lc_data_open(lc_ctx *, const lc_tokenizer *, const char *path, const lc_data_opts *, lc_dataset **);
/* The same of rows that are ids already (n_targets is not read): for callers that have their own tokens. */
lc_status lc_data_from_ids(lc_ctx *, const lc_example *, int64_t n, lc_dataset **);
/* Pictures: each a row of `rows` ids (0, then ones), whose label is at the first. Takes the source over, also when it fails. */
lc_status lc_data_of_pictures(lc_ctx *, const int32_t *label, int64_t n, int64_t rows,
                              const lc_picture_source *, lc_dataset **);
void lc_data_free(lc_dataset *);
int64_t lc_data_count(const lc_dataset *); /* examples */
int64_t lc_data_rows(const lc_dataset *);  /* rows: of preferences half as many */
lc_example lc_data_get(const lc_dataset *, int64_t i);
const char *lc_data_answer(const lc_dataset *, int64_t i); /* of a prompt with an answer; else NULL */
typedef struct {
  lc_row_kind kind;
  int group; /* examples a row: 2 of preferences, else 1 */
  int64_t rows, tokens, targets, cut, dropped, bad,
      apart /* prompts whose tokens change when the completion follows */;
  const char *template_name /* or NULL */;
  uint32_t checksum; /* of ids and masks: a resume compares it */
} lc_data_info;
lc_data_info lc_data_describe(const lc_dataset *);
/* The i-th row of an epoch in the order given by the seed: a function of (seed, epoch, i) alone. out[rows].
 * shuffle=false: identity. */
void lc_data_order(const lc_dataset *, uint64_t seed, int64_t epoch, bool shuffle, int64_t *out);

/* ---- answers: what a text's answer is, and whether two are the same (answer.c) ---- */
#define LC_GSM8K_ANSWER "#### (-?[0-9.,]+)"
typedef struct lc_extractor lc_extractor;
lc_status lc_extractor_new(lc_ctx *, const char *expression, lc_extractor **);
void lc_extractor_free(lc_ctx *, lc_extractor *);
/* Group 1 of the first match (the whole match when there is no group) is text[*from, *to); false: nothing matches. */
bool lc_extract(const lc_extractor *, const char *text, size_t n, size_t *from, size_t *to);
/* Without commas, dollar signs, case, spaces around and a final stop. */
bool lc_same_answer(const char *a, size_t n_a, const char *b, size_t n_b);
/* The number that the text is, commas and dollar signs aside; false: it is none. */
bool lc_answer_number(const char *text, size_t n, double *out);

/* Rows for evaluation by choice or by answer: {"prompt": s | [s…], "choices": [s…], "answer": i|"A"} and
 * {"prompt", "answer"}. */
typedef struct {
  char **prompt;
  int n_prompts;
  char **choice;
  int n_choices;
  int answer;
  char *answer_text;
} lc_question;
lc_status lc_questions_open(lc_ctx *, const char *path, bool choices, lc_question **, int64_t *n);
void lc_questions_free(lc_ctx *, lc_question *, int64_t n);
#endif
