/* The tokenizer from inside: what the files of this room share, and nobody else includes.
 *
 * A byte-level BPE vocabulary writes every byte as one printable character (bytelevel.c), so token texts are
 * valid UTF-8 and merges never meet a space. The text of a token is kept as the file has it; its bytes, what
 * it decodes to, beside it. Added tokens (special and plain ones) are raw text: their bytes are their text.
 *
 * The way from text to ids: added tokens are cut out (added.c), the rest is normalised (NFC or not at all),
 * cut into words by a list of steps (pretokenize.c), and each word is merged from its bytes (bpe.c). WordPiece
 * (wordpiece.c) has another normaliser, other words and pieces. A
 * tokenizer is constant once loaded: what a call needs to write is in its lc_tok_run. */
#ifndef LC_TEXT_TOKENIZER_H
#define LC_TEXT_TOKENIZER_H
#include "text/text.h"

struct json_t;
struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_general_context_8;

/* ---- vocabulary (vocab.c) ------------------------------------------------------------------------------ */
enum {
  LC_TOK_VOCAB = 1,       /* in the model's own vocabulary */
  LC_TOK_ADDED = 2,       /* cut out of the text before anything else */
  LC_TOK_SPECIAL = 4,     /* not text: BOS, end of turn … */
  LC_TOK_LSTRIP = 8,      /* an added token that swallows the white space before it */
  LC_TOK_RSTRIP = 16,     /* … after it */
  LC_TOK_NORMALIZED = 32, /* an added token that is looked for in the normalised text */
  LC_TOK_UNUSED = 64      /* a padding row of the embedding */
};
typedef struct {
  size_t text, bytes;              /* offsets in the arena */
  uint32_t n_text, n_bytes, flags; /* flags 0: no token has this id */
} lc_token;

typedef struct {
  int32_t left, right, made; /* ids; the merge's index is its rank: lower merges first */
} lc_merge;
typedef struct {
  uint64_t key; /* left << 32 | right */
  int32_t rank; /* -1: empty */
} lc_merge_slot;

typedef struct {
  int32_t *id; /* by first byte, then longest first */
  int32_t n, first[257];
} lc_added_set;

/* ---- pre-tokenizer (pretokenize.c, pretokenizers.c) ---------------------------------------------------- */
typedef enum { LC_STEP_SPLIT, LC_STEP_PREFIX } lc_step_kind;
typedef struct {
  lc_step_kind kind;             /* SPLIT: by a pattern; PREFIX: a space before a piece that has none */
  bool drop_match, drop_between; /* pieces left out: Removed, and Removed inverted */
  char *pattern;                 /* as the file has it */
  struct pcre2_real_code_8 *code;
} lc_step;
#define LC_MAX_STEPS 16
typedef struct {
  lc_step step[LC_MAX_STEPS];
  int n;
} lc_pre;

/* A known pre-tokenizer: its names in GGUF and its structure in tokenizer.json's terms, from which both kinds
 * of file are read and written. */
typedef struct {
  const char *names[6];        /* tokenizer.ggml.pre; the first is written */
  const char *json;            /* tokenizer.json's pre_tokenizer */
  bool ignore_merges, add_bos; /* what the name implies in llama.cpp */
} lc_pre_row;
const lc_pre_row *lc_pre_by_name(lc_str name); /* NULL when unknown */
const lc_pre_row *lc_pre_at(int i);            /* NULL after the last */

/* Builds the steps from tokenizer.json's pre_tokenizer. `source` names the file in errors. */
lc_status lc_pre_build(lc_ctx *, const char *source, const struct json_t *, lc_pre *);
lc_status lc_pre_from_row(lc_ctx *, const char *source, const lc_pre_row *, lc_pre *);
void lc_pre_free(lc_ctx *, lc_pre *);
bool lc_pre_same(const lc_pre *, const lc_pre *);
/* Rewrites a pattern of the dialect of tokenizer.json (Oniguruma) in PCRE2's, with the same meaning; a
 * construct that it does not know to mean the same is refused by name. */
lc_status lc_pattern_translate(lc_ctx *, const char *source, const char *pattern, size_t n, lc_bytes *out);

/* ---- WordPiece (wordpiece.c) --------------------------------------------------------------------------- */
typedef struct {
  bool on, clean, ideographs, strip, lowercase; /* on: in place of normaliser, pre-tokenizer and merges */
  int64_t most;                                 /* characters of a word */
  char prefix[16];                              /* "##" */
} lc_wordpiece;

/* ---- what stands around a text (frame.c) --------------------------------------------------------------- */
enum { LC_FRAME_A = -1, LC_FRAME_B = -2, LC_FRAME_MAX = 12 };
typedef struct {
  int32_t id; /* of a special token, or LC_FRAME_A, LC_FRAME_B */
  uint8_t type;
} lc_frame_item;
typedef struct {
  lc_frame_item item[LC_FRAME_MAX];
  int n; /* 0: nothing around it */
} lc_frame_list;
bool lc_frame_add(lc_frame_list *, int32_t id, int type); /* false: too many */

/* ---- the tokenizer ------------------------------------------------------------------------------------- */
struct lc_tokenizer {
  lc_ctx *ctx;
  char *source;   /* the file, for errors */
  char *dir;      /* an HF base: the files are copied from here; NULL for GGUF */
  char *pre_name; /* tokenizer.ggml.pre of a GGUF base */
  lc_token *tok;
  int64_t n, cap;
  lc_bytes arena;
  int32_t *slot; /* token text -> id, open addressing; -1 empty */
  size_t n_slots, n_texts;
  int32_t byte_id[256]; /* -1: the vocabulary has no token for this byte */
  lc_merge *merge;
  int64_t n_merges;
  lc_merge_slot *pair;
  size_t n_pairs;
  bool ignore_merges, fuse_unk, nfc;
  int32_t unk; /* the model's unk_token: stands for bytes without a token; -1: they are left out */
  lc_pre pre;
  lc_wordpiece wordpiece;
  lc_added_set added[2]; /* looked for in the text as it stands; in the normalised text */
  int32_t bos, eos, pad, unknown, eot, eom;
  bool adds_bos;
  lc_frame_list frame[2]; /* of a text, of a pair */
  bool framed;            /* they put more than a BOS around a text */
  bool words_have_space;  /* words given one by one each begin with a space (byte-level vocabularies) */
  int32_t *stop;
  int n_stops;
  char *chat_template;
  int64_t context_length; /* 0: unknown */
  bool warned;            /* of a byte without a token: once is enough (atomic access) */
};

lc_status lc_vocab_put(lc_tokenizer *, int64_t id, const char *text, size_t n, uint32_t flags);
int32_t lc_vocab_find(const lc_tokenizer *, const char *text, size_t n); /* -1 */
static inline const char *lc_token_text(const lc_tokenizer *t, int32_t id) {
  return t->arena.data + t->tok[id].text;
}
lc_status lc_vocab_reserve(lc_tokenizer *, int64_t n); /* ids below n exist, without a text as yet */
/* Once all tokens are there: their bytes, the table of single bytes, the search sets of the added tokens. */
lc_status lc_vocab_finish(lc_tokenizer *);
/* Room for n merges, then one call a merge in order of rank. */
lc_status lc_merges_begin(lc_tokenizer *, int64_t n);
lc_status lc_merges_add(lc_tokenizer *, const char *left, size_t n_left, const char *right, size_t n_right);
lc_status lc_tokenizer_new(lc_ctx *, const char *source, lc_tokenizer **);
/* Collects the stop ids: `eos` of the file's own list, the tokenizer's, the template's. */
lc_status lc_stops_add(lc_tokenizer *, int32_t id);
lc_status lc_stops_finish(lc_tokenizer *);
uint64_t lc_hash_bytes(const char *, size_t n);
int32_t lc_merge_rank(const lc_tokenizer *, int32_t left, int32_t right); /* -1: the pair never merges */

/* ---- bytes as characters (bytelevel.c) ----------------------------------------------------------------- */
int lc_byte_char(uint8_t byte, char out[2]); /* length of the UTF-8 of a byte's character */
/* Token text -> bytes, in place of `out` (room for n). False when a character stands for no byte: the text is
 * then meant literally. */
bool lc_chars_to_bytes(const char *text, size_t n, char *out, size_t *n_out);

/* ---- one call of lc_tokenize --------------------------------------------------------------------------- */
typedef struct {
  int32_t id, prev, next;
  uint32_t end; /* byte offset in the word, after the symbol */
} lc_symbol;
typedef struct {
  int32_t rank, at;
} lc_candidate;
typedef struct {
  const lc_tokenizer *t;
  lc_ids *ids;
  lc_bytes *ends; /* int64 offsets in the text after each id, or NULL */
  bool special;
  const char *text, *buffer; /* the whole text; where the current fragment's bytes lie … */
  int64_t at;                /* … and which offset of the text that is */
  lc_bytes normalized, prefixed, word;
  const char *fragment; /* WordPiece: the text that `normalized` was made from */
  size_t n_fragment;
  lc_symbol *sym;
  lc_candidate *heap;
  size_t sym_cap, heap_cap;
  struct pcre2_real_general_context_8 *general;
  struct pcre2_real_match_data_8 *match;
  struct pcre2_real_match_context_8 *limits;
} lc_tok_run;

/* As lc_tokenize, with the end of each id's bytes in the text (exact for a text that the normaliser leaves
 * alone). */
lc_status lc_tokenize_ends(const lc_tokenizer *, const char *text, size_t n, bool special, lc_ids *,
                           lc_bytes *ends);
lc_status lc_tok_emit(lc_tok_run *, int32_t id, const char *end);
/* Calls `next` for the text between added tokens and emits the ids of those. */
typedef lc_status (*lc_fragment_fn)(lc_tok_run *, const char *s, size_t n);
lc_status lc_added_split(lc_tok_run *, const lc_added_set *, const char *s, size_t n, lc_fragment_fn next);
lc_status lc_pre_run_begin(lc_tok_run *);
void lc_pre_run_end(lc_tok_run *);
lc_status lc_pretokenize(lc_tok_run *, const char *s, size_t n); /* words to lc_bpe_word */
lc_status lc_bpe_word(lc_tok_run *, const char *s, size_t n);
lc_status lc_nfc(lc_ctx *, const char *s, size_t n, lc_bytes *out);                             /* appends */
lc_status lc_wordpiece_normalize(const lc_tokenizer *, const char *s, size_t n, lc_bytes *out); /* appends */
lc_status lc_wordpiece_words(lc_tok_run *, const char *s, size_t n);      /* of normalised text */
lc_status lc_wordpiece_vocab(lc_tokenizer *, const char *text, size_t n); /* a vocab.txt: a token a line */
lc_status lc_wordpiece_check(lc_tokenizer *); /* once vocabulary and options are there */

/* ---- UTF-8 (utf8.c) ------------------------------------------------------------------------------------ */
int lc_utf8_step(const char *s,
                 size_t n); /* length of the character; 0: not UTF-8; -1: cut short by the end */
uint32_t lc_utf8_char(const char *s, int n_bytes); /* its code point */
size_t lc_space_at(const char *s, size_t n);       /* length of the white space character at s, 0 when none */
size_t lc_space_before(const char *s, size_t n);   /* … that ends at s + n */

/* Text from a file as an error sentence shows it: one line, cut short, what is not printable as '?'. Both by
 * value: `lc_quoted(s, n).s` lives to the end of the call it is used in. NULL is shown as nothing. */
typedef struct {
  char s[84];
} lc_quote;
lc_quote lc_quoted(const char *s, size_t n);
lc_quote lc_quoted_str(const char *s);

/* ---- files of a Hugging Face directory ----------------------------------------------------------------- */
lc_status
lc_tokenizer_json(lc_tokenizer *,
                  const struct json_t *root); /* vocab_json.c: tokenizer.json, parsed, but for the finish */
lc_status lc_added_from_json(lc_tokenizer *, int64_t id, const struct json_t *);
lc_status lc_frame_bert(lc_tokenizer *, int32_t cls, int32_t sep, bool roberta); /* their post-processors */
lc_status lc_token_make_special(lc_tokenizer *, const char *key, const char *text, size_t n, int32_t *id);

/* ---- chat (chat.c) ------------------------------------------------------------------------------------- */
const lc_template *lc_template_known(const char *text); /* NULL when it is not built in */

/* ---- JSON lines (lines.c) ------------------------------------------------------------------------------ */
typedef struct {
  lc_ctx *ctx;
  const char *path;
  FILE *f;
  lc_bytes buf;
  size_t at;
  int64_t line; /* number of the last line handed out, from 1 */
  bool eof;
} lc_lines;
lc_status lc_lines_open(lc_ctx *, const char *path, lc_lines *);
void lc_lines_close(lc_lines *);
/* The next line that is not blank, without its end; *line NULL at the end. Valid until the next call. */
lc_status lc_lines_next(lc_lines *, const char **line, size_t *n);
/* Parses a row: an object. On failure NULL, and why it is malformed in `why`. */
#define LC_WHY 200
struct json_t *lc_row_parse(const char *line, size_t n, char why[LC_WHY]);
#endif
