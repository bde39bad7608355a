/* delta_mask: W ⊙ M, a mask over the base as a removable change, so that a pruned model is the base's file and a bit a
 * weight.
 *
 *   δ = −(1 − M)∘W;  at scale 1 what is dropped is exactly +0, what survives has the base's bits
 *
 * It acts on what lies beneath it: it is attached before any other change of the weight, and those that follow (an
 * update's low rank and entries) are not masked. It trains nothing. */
#include "nn/mask.h"
#include <string.h>

typedef struct {
  lc_mask m;
  struct mask_text {
    int structure, group;
    int64_t kept;
  } text; /* as adapter files have it */
} state;

const lc_mask *lc_delta_mask_of(const lc_delta *d) {
  return &((const state *)d->priv)->m;
}

const lc_mask *lc_weight_mask(const lc_weight *w) {
  for (int i = 0; i < w->n_delta; i++)
    if (w->delta[i]->ops == &lc_delta_mask && w->delta[i]->scale != 0) return lc_delta_mask_of(w->delta[i]);
  return NULL;
}

static lc_status patch(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile, int64_t ld) {
  const lc_mask *m = lc_delta_mask_of(d);
  const float rest = 1 - d->scale;
  if (d->scale == 0) return LC_OK;
  for (int64_t r = at.r0; r < at.r1; r++) {
    float *row = tile + (r - at.r0) * ld;
    for (int64_t c = at.c0, f = r * m->N + at.c0; c < at.c1; c++, f++, row++) {
      if (!(f & 7) && at.c1 - c >= 8 && m->bits[f >> 3] == 0xff) {
        c += 7, f += 7, row += 7;
        continue;
      }
      *row = lc_mask_has(m, f) ? *row : rest == 0 ? 0 : *row * rest;
    }
  }
  return LC_OK;
}

static lc_status patch_bf16(lc_ctx *ctx, const lc_delta *d, lc_rect at, uint16_t *tile, int64_t ld) {
  const lc_mask *m = lc_delta_mask_of(d);
  const float rest = 1 - d->scale;
  if (d->scale == 0) return LC_OK;
  for (int64_t r = at.r0; r < at.r1; r++)
    for (int64_t c = at.c0; c < at.c1; c++) {
      uint16_t *e = &tile[(r - at.r0) * ld + c - at.c0];
      if (!lc_mask_has(m, r * m->N + c)) *e = rest == 0 ? 0 : lc_f32_to_bf16(lc_bf16_to_f32(*e) * rest);
    }
  return LC_OK;
}

/* What is dropped; numbers are positions. */
static int64_t walk(const lc_delta *d, lc_walk *w, int64_t room, int64_t *flat) {
  const lc_mask *m = lc_delta_mask_of(d);
  int64_t n = 0, f = w->next < 0 ? w->from : w->next;
  if ((w->none = w->which > 0)) return 0;
  for (; n < room && f < w->end; f++) {
    if (!(f & 7) && m->bits[f >> 3] == 0xff)
      f += 7;
    else if (!lc_mask_has(m, f))
      flat[n++] = f;
  }
  w->next = f;
  return n;
}

static void value_at(const lc_delta *d, int which, int64_t number, int64_t n, const int64_t *flat, float *f) {
  const lc_mask *m = lc_delta_mask_of(d);
  const float rest = 1 - d->scale;
  if (d->scale == 0) return;
  for (int64_t i = 0; i < n; i++)
    if (!lc_mask_has(m, flat[i])) f[i] = rest == 0 ? 0 : f[i] * rest;
}

static lc_status visit(lc_delta *d, lc_visitor *v) {
  return lc_delta_visit_arrays(d, v);
}
static int64_t nonzeros(const lc_delta *d) {
  return 0;
}
static void mask_free(lc_ctx *ctx, lc_delta *d) {
  if (d && d->priv) lc_mask_free(ctx, &((state *)d->priv)->m);
  lc_delta_free(ctx, d);
}

const lc_delta_ops lc_delta_mask = {.name = "mask",
                                    .mergeable = true,
                                    .beneath = true,
                                    .patch = patch,
                                    .patch_bf16 = patch_bf16,
                                    .walk = walk,
                                    .at = value_at,
                                    .visit = visit,
                                    .nonzeros = nonzeros,
                                    .free = mask_free};

lc_status lc_delta_mask_new(lc_ctx *ctx, lc_weight *w, lc_mask *m, lc_delta **out) {
  lc_status st = LC_OK;
  *out = NULL;
  if (w->ndim != 2 || m->M != w->M || m->N != w->N)
    st = lc_fail(ctx, "'%s' is %lld×%lld, its mask %lld×%lld", w->name, (long long)w->M, (long long)w->N,
                 (long long)m->M, (long long)m->N);
  lc_delta *d = st ? NULL : lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  state *s = d ? lc_alloc(ctx, LC_MEM_OTHER, sizeof *s) : NULL;
  if (!s) {
    lc_free(ctx, d);
    lc_mask_free(ctx, m);
    return LC_FAILED;
  }
  s->m = *m;
  s->text = (struct mask_text){m->structure, m->group, m->kept};
  *m = (lc_mask){0};
  *d = (lc_delta){.ops = &lc_delta_mask, .w = w, .scale = 1, .apply = LC_PATCH, .priv = s};
  *out = d;
  return LC_OK;
}

/* ---- as adapter files keep it ---- */

typedef struct mask_text mask_text;
static const lc_option file_options[] = {
    {"structure", LC_OPT_CHOICE, offsetof(mask_text, structure), "entries", 0, 0, "entries|lines", NULL,
     "what was dropped: single entries, or whole rows and columns"},
    {"group", LC_OPT_CHOICE, offsetof(mask_text, group), "pool", 0, 0, "pool|layer", NULL,
     "what was compared"},
    {"kept", LC_OPT_INT, offsetof(mask_text, kept), "0", 0, 1e18, NULL, "N", "survivors"},
    {0},
};
static const void *options_of(const lc_delta *d) {
  return &((const state *)d->priv)->text;
}
static lc_status make(lc_ctx *ctx, lc_weight *w, const void *options, lc_delta *const *made, int n,
                      bool trainable, lc_delta **out) {
  const mask_text *t = options;
  lc_mask m;
  LC_TRY(lc_mask_new(ctx, w->M, w->N, &m));
  m.structure = t->structure;
  m.group = t->group;
  m.kept = t->kept;
  return lc_delta_mask_new(ctx, w, &m, out);
}
static int arrays(const lc_delta *d, lc_array *a) {
  const lc_mask *m = lc_delta_mask_of(d);
  a[0] = (lc_array){"bits", LC_U8, (int64_t)lc_mask_bytes(m->M, m->N), m->bits};
  return 1;
}
static lc_status loaded(lc_ctx *ctx, lc_delta *d) {
  lc_mask *m = &((state *)d->priv)->m;
  const int64_t n = lc_mask_count(m);
  if (m->M * m->N % 8 && m->bits[m->M * m->N / 8] >> (m->M * m->N % 8))
    return lc_fail(ctx, "the mask of '%s' has bits beyond its %lld×%lld entries", d->w->name, (long long)m->M,
                   (long long)m->N);
  if (n != m->kept)
    return lc_fail(ctx, "the mask of '%s' keeps %lld entries, its description says %lld", d->w->name,
                   (long long)n, (long long)m->kept);
  return LC_OK;
}
extern const lc_delta_kind lc_kind_mask;
const lc_delta_kind lc_kind_mask = {&lc_delta_mask, file_options, sizeof(mask_text), NULL, options_of, make,
                                    arrays,         loaded};
