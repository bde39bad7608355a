/* Sentence embeddings: an encoder's hidden states pooled to one vector a text. */
#ifndef LC_EMBED_H
#define LC_EMBED_H
#include "model/model.h"

typedef enum { LC_POOL_MEAN, LC_POOL_CLS, LC_POOL_MAX, LC_POOL_SQRT, LC_POOL_LAST } lc_pooling;
typedef struct {
  lc_pooling pooling;
  bool normalize;  /* to length 1 */
  bool lower;      /* the text is lowered before it is tokenised (sentence_bert_config.json) */
  int64_t max;     /* tokens of a text, special ones included */
  bool from_files; /* the model came with sentence-transformers' files */
} lc_embed_opts;
/* What the model's own files say (modules.json, its Pooling's config.json, sentence_bert_config.json); without them the
 * mean, normalised, of as many tokens as there are positions. */
lc_status lc_embed_config(const lc_model *, lc_embed_opts *);
typedef struct {
  const char *text;
  size_t n;
} lc_embed_text;
/* One row of the network's width a text. A text's embedding does not depend on the others. */
lc_status lc_embed(lc_net *, const lc_tokenizer *, const lc_embed_opts *, const lc_embed_text *, int64_t n,
                   float *out);
#endif
