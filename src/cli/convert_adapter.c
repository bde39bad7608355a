/* lacuna convert -a: a sparse adapter from lacuna's own layout to PEFT's SHiRA, so that PEFT loads what SpIEL trained, or the other way; a slice
 * (S²FT) becomes a list of its lines' entries. lacuna merge --as adapter: the sum of several. The values stay the same bits; positions that only pad stay too, with the value 0. What the adapter says of itself (base, method, targets, template, seed) goes along, and OUT is a fresh directory
 * with the tokenizer's files, as training's is. */
#include "cli/cli.h"
#include <string.h>

/* The description beside the adapter; one that came from PEFT has none, and is described by its kind. */
static lc_status read_meta(lc_cli *cli, const lc_net *net, const char *path, const json_t *j,
                           lc_adapter_meta *m) {
  lc_ctx *ctx = cli->ctx;
  lc_status st;
  LC_GO(lc_json_str_or(ctx, j, "method", "shira", &m->method));
  LC_GO(lc_json_str_or(ctx, j, "base_model", net->model->path, &m->base_name));
  LC_GO(lc_json_str_or(ctx, j, "targets", NULL, &m->targets));
  LC_GO(lc_json_str_or(ctx, j, "template", NULL, &m->template_name));
  LC_GO(lc_json_str_or(ctx, j, "mask", NULL, &m->mask_type));
  LC_GO(lc_json_i64_or(ctx, j, "seed", 0, &m->seed));
done:
  return lc_in_file(ctx, path, st);
}

static lc_status write(lc_cli *cli, const lc_loaded *l, const lc_adapter *a, const char *from,
                       lc_layout layout, const char *base_name, const char *out) {
  lc_ctx *ctx = cli->ctx;
  lc_adapter_meta meta = {.dry = true};
  json_t *sidecar = NULL;
  lc_status st = LC_OK;
  char *path = lc_path_join(ctx, from, "lacuna_adapter.json");
  if (!path) return LC_FAILED;
  if (lc_path_exists(path))
    LC_GO(lc_json_read(ctx, path, &sidecar));
  else
    sidecar = json_object();
  LC_GO(read_meta(cli, l->net, path, sidecar, &meta));
  if (base_name) meta.base_name = base_name;
  LC_GO(lc_adapter_save(a, layout, out, &meta)); /* refuses before anything is written */
  meta.dry = false;
  LC_GO(lc_adapter_save(a, layout, out, &meta));
  LC_GO(lc_tokenizer_write_dir(l->tok, out));
done:
  json_decref(sidecar);
  lc_free(ctx, path);
  return st;
}

/* The adapter itself, where it is lists of entries; else what it comes to. */
static lc_status as_entries(const lc_net *net, const lc_adapter **a) {
  lc_adapter *sum;
  bool low_rank = false, plain = true;
  *a = net->adapter[0];
  for (int i = 0; i < (*a)->n; i++)
    plain &= (*a)->delta[i]->ops == &lc_delta_sparse && lc_delta_sparse_factor((*a)->delta[i]) == 1;
  if (plain) return LC_OK;
  LC_TRY(lc_adapter_sum((lc_net *)(uintptr_t)net, &sum, &low_rank));
  if (low_rank)
    return lc_fail(net->ctx,
                   "adapter '%s' is of low rank: its changes are no entries, which these layouts hold",
                   (*a)->name);
  *a = sum;
  return LC_OK;
}

/* Writes into a new directory; nothing half-written stays. */
static lc_status write_new(lc_cli *cli, lc_loaded *l, const lc_adapter *a, const char *from, lc_layout layout,
                           const char *base_name, const char *out) {
  lc_status st = write(cli, l, a, from, layout, base_name, out);
  if (st && lc_path_exists(out)) {
    char *why = lc_strdup(cli->ctx, lc_error(cli->ctx));
    lc_remove_tree(cli->ctx, out);
    if (why) lc_fail(cli->ctx, "%s", why);
    lc_free(cli->ctx, why);
  }
  return st;
}

static void tell(const lc_cli *cli, const char *out, const char *layout) {
  if (cli->common.json)
    lc_cli_print_json(json_pack("{s:s, s:s}", "output", out, "layout", layout));
  else
    printf("%s\n", out);
}

lc_status lc_cli_sum_adapters(lc_cli *cli, lc_loaded *l, const char *out) {
  lc_adapter *sum;
  bool low_rank;
  if (lc_path_exists(out))
    return lc_fail(cli->ctx, "%s exists: an adapter is written into a new directory", out);
  const char *from = l->net->adapter[0]->path;
  LC_TRY(lc_adapter_sum(l->net, &sum, &low_rank));
  LC_TRY(write_new(cli, l, sum, from, low_rank ? LC_LAYOUT_PEFT_LORA : LC_LAYOUT_NATIVE, NULL, out));
  tell(cli, out, low_rank ? "lora" : "native");
  return LC_OK;
}

lc_status lc_cli_convert_adapter(lc_cli *cli, const char *model, const char *adapter, int layout,
                                 const char *base_name, const char *out) {
  static const lc_layout layouts[] = {LC_LAYOUT_PEFT_SHIRA, LC_LAYOUT_NATIVE};
  char *from;
  float scale;
  lc_loaded l;
  const lc_adapter *a;
  if (lc_cli_given(cli, "outtype"))
    return lc_usage(cli->ctx, "--outtype is of a model; an adapter's values stay f32");
  if (lc_path_exists(out))
    return lc_fail(cli->ctx, "%s exists: an adapter is written into a new directory", out);
  LC_TRY(lc_cli_adapter_spec(cli, adapter, &from, &scale));
  lc_status st = scale == 1 ? LC_OK : lc_usage(cli->ctx, "-a %s: an adapter is written at scale 1", adapter);
  if (!st) st = lc_cli_load(cli, model, LC_F32, LC_PATCH, true, &l);
  if (!st) {
    st = as_entries(l.net, &a);
    if (!st) st = write_new(cli, &l, a, from, layouts[layout], base_name, out);
    if (!st) tell(cli, out, layout ? "native" : "shira");
    lc_cli_unload(&l);
  }
  lc_free(cli->ctx, from);
  return st;
}
