/* lacuna logits: every position's logits for checks against other programs; with --labels and --grads the loss and its gradient with respect
 * to every parameter, under Hugging Face names. Needs no tokenizer. */
#include "cli/cli.h"
#include "io/io.h"
#include <string.h>

typedef struct {
  char *model, *adapter, *ids, *out, *labels, *grads, *dtype;
  bool recompute;
} self_t;
static const lc_option options[] = {
    {"model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL, "MODEL",
     "a Hugging Face directory or a GGUF file"},
    {"adapter", LC_OPT_STRING, offsetof(self_t, adapter), NULL, 0, 0, NULL, "[NAME=]DIR[:SCALE]",
     "apply an adapter (repeatable)"},
    {"ids", LC_OPT_STRING, offsetof(self_t, ids), NULL, 0, 0, NULL, "IDS", "token ids: 5,7,9"},
    {"out", LC_OPT_STRING, offsetof(self_t, out), NULL, 0, 0, NULL, "FILE",
     "safetensors with one tensor `logits`, f32, T×V"},
    {"labels", LC_OPT_STRING, offsetof(self_t, labels), NULL, 0, 0, NULL, "IDS",
     "labels[t] beside ids[t], predicted from the ids before it; negative: no target"},
    {"grads", LC_OPT_STRING, offsetof(self_t, grads), NULL, 0, 0, NULL, "FILE",
     "safetensors with the mean loss's gradient of every parameter"},
    {"recompute", LC_OPT_BOOL, offsetof(self_t, recompute), "false", 0, 0, NULL, NULL,
     "compute blocks again in the backward pass"},
    {"dtype", LC_OPT_STRING, offsetof(self_t, dtype), "f32", 0, 0, NULL, "T", "compute in f32 or bf16"},
    {0}};

static bool every_weight(const lc_weight *w, void *arg) {
  return true;
}

static lc_status write_logits(lc_cli *cli, const self_t *s, lc_run *run, const lc_net_graph *g, int64_t T) {
  int64_t V = g->head->M, shape[2] = {T, V};
  lc_safetensors_writer *w;
  LC_TRY(lc_safetensors_create(cli->ctx, s->out, &w));
  float *rows = lc_alloc_n(cli->ctx, LC_MEM_OTHER, (size_t)(64 * V), sizeof *rows);
  lc_status st = rows ? lc_safetensors_declare(w, "logits", LC_F32, 2, shape) : LC_FAILED;
  for (int64_t t = 0; !st && t < T; t += 64) {
    int64_t n = lc_min64(64, T - t);
    st = lc_head_logits(run, g->hidden, g->head, t, t + n, rows);
    if (!st) st = lc_safetensors_append(w, rows, (size_t)(n * V) * sizeof *rows);
  }
  lc_free(cli->ctx, rows);
  lc_status end = lc_safetensors_finish(w, !st);
  return st ? st : end;
}

static bool stored_transposed(const lc_model *m, const char *name) {
  for (int i = 0; i < m->n; i++)
    if (!strcmp(m->decl[i].name, name)) return m->decl[i].transposed;
  return false;
}

/* One gradient in the file's orientation: Conv1D's matrices stand in×out there, and M×N here. */
static lc_status append_gradient(lc_cli *cli, lc_safetensors_writer *w, const lc_param *p, bool transposed) {
  int64_t M = p->of->M, N = p->of->N;
  if (!transposed) return lc_safetensors_append(w, p->grad, (size_t)p->n * sizeof(float));
  float *column = lc_alloc_n(cli->ctx, LC_MEM_OTHER, (size_t)M, sizeof *column);
  lc_status st = column ? LC_OK : LC_FAILED;
  for (int64_t j = 0; !st && j < N; j++) {
    for (int64_t i = 0; i < M; i++) column[i] = p->grad[i * N + j];
    st = lc_safetensors_append(w, column, (size_t)M * sizeof *column);
  }
  lc_free(cli->ctx, column);
  return st;
}

static lc_status write_grads(lc_cli *cli, const self_t *s, lc_net *net) {
  lc_param **params = NULL;
  int n = 0;
  LC_TRY(lc_net_params(net, &params, &n));
  lc_safetensors_writer *w = NULL;
  lc_status st = lc_safetensors_create(cli->ctx, s->grads, &w);
  for (int i = 0; !st && i < n; i++) {
    const lc_weight *of = params[i]->of;
    bool t = stored_transposed(net->model, of->name);
    int64_t shape[2] = {t ? of->N : of->M, t ? of->M : of->N};
    st = of->ndim == 1 ? lc_safetensors_declare(w, of->name, LC_F32, 1, shape + 1)
                       : lc_safetensors_declare(w, of->name, LC_F32, 2, shape);
  }
  for (int i = 0; !st && i < n; i++)
    st = append_gradient(cli, w, params[i], stored_transposed(net->model, params[i]->of->name));
  if (w) {
    lc_status end = lc_safetensors_finish(w, !st);
    if (!st) st = end;
  }
  lc_free(cli->ctx, params);
  return st;
}

static lc_status compute(lc_cli *cli, const self_t *s, lc_loaded *l, const lc_ids *ids, const lc_ids *labels,
                         json_t *result) {
  lc_net_graph g = {0};
  lc_plan *plan = NULL;
  lc_run *run = NULL;
  const lc_segment whole = {.row1 = ids->n}; /* the run keeps a pointer to it */
  lc_status st = LC_OK;
  if (s->grads) LC_GO(lc_net_train_whole(l->net, every_weight, NULL));
  LC_GO(lc_net_build(l->net, labels->n > 0, NULL, NULL, &g));
  lc_graph_keep(g.g, g.hidden);
  LC_GO(lc_plan_new(
      g.g, &(lc_plan_opts){.rows = ids->n, .training = s->grads != NULL, .recompute = s->recompute}, &plan));
  LC_GO(lc_run_new(cli->ctx, plan, &run));
  LC_GO(lc_run_begin(run, ids->n, &whole, 1));
  int32_t *id = lc_data(run, g.ids), *pos = lc_data(run, g.pos), *label = lc_data(run, g.labels);
  int64_t targets = 0;
  for (int64_t t = 0; t < ids->n; t++) {
    id[t] = ids->id[t];
    pos[t] = (int32_t)t;
    label[t] = t + 1 < labels->n ? labels->id[t + 1] : -1;
    targets += label[t] >= 0;
  }
  if (labels->n && !targets) {
    st = lc_usage(cli->ctx, "--labels names no target after the first position");
    goto done;
  }
  run->training = s->grads != NULL;
  run->loss_scale = targets ? 1.0f / (float)targets : 0;
  LC_GO(lc_forward(run, NULL));
  if (targets) {
    double sum = 0;
    for (int64_t t = 0; t < ids->n; t++) sum += (double)((const float *)lc_data(run, g.nll))[t];
    json_object_set_new(result, "loss", json_real(sum / (double)targets));
  }
  if (s->out) LC_GO(write_logits(cli, s, run, &g, ids->n));
  if (s->grads) {
    LC_GO(lc_backward(run, NULL));
    LC_GO(write_grads(cli, s, l->net));
  }
done:
  lc_run_free(run);
  lc_plan_free(plan);
  lc_net_graph_free(&g);
  return st;
}

static lc_status run_logits(lc_cli *cli, void *self) {
  self_t *s = self;
  if (!s->ids || (!s->out && !s->grads)) return lc_usage(cli->ctx, "--ids and -o (or --grads) are needed");
  if (s->grads && !s->labels) return lc_usage(cli->ctx, "--grads needs --labels");
  if (s->grads && s->adapter)
    return lc_usage(cli->ctx, "--grads is of the whole model: it goes with no adapter");
  lc_dtype dtype;
  LC_TRY(lc_cli_dtype(cli, s->dtype, &dtype));
  lc_loaded l;
  LC_TRY(lc_cli_load(cli, s->model, dtype, LC_PATCH, false, &l));
  lc_ids ids = {0}, labels = {0};
  json_t *result = json_object();
  lc_status st = lc_cli_ids(cli, s->ids, 0, l.model->config.V, &ids);
  if (!st && s->labels) st = lc_cli_ids(cli, s->labels, INT32_MIN, l.model->config.V, &labels);
  if (!st && s->labels && labels.n != ids.n)
    st = lc_usage(cli->ctx, "%lld labels for %lld ids", (long long)labels.n, (long long)ids.n);
  if (!st) st = compute(cli, s, &l, &ids, &labels, result);
  if (!st) {
    json_object_set_new(result, "tokens", json_integer(ids.n));
    if (s->out) json_object_set_new(result, "output", json_string(s->out));
    if (cli->common.json)
      lc_cli_print_json(json_incref(result));
    else if (json_object_get(result, "loss"))
      printf("loss %.7f\n", json_real_value(json_object_get(result, "loss")));
  }
  json_decref(result);
  lc_ids_free(cli->ctx, &ids);
  lc_ids_free(cli->ctx, &labels);
  lc_cli_unload(&l);
  return st;
}

const lc_command lc_cmd_logits = {.name = "logits",
                                  .usage = "-m MODEL --ids 5,7,9 -o F.safetensors",
                                  .title = "logits (and gradients) for checks against other programs",
                                  .options = options,
                                  .self_size = sizeof(self_t),
                                  .repeatable = "adapter",
                                  .run = run_logits};
