/* lacuna convert -a: a sparse adapter from lacuna's own layout to PEFT's SHiRA, so that PEFT loads what SpIEL trained, or the other way.
 * The values stay the same bits; positions that only pad stay too, with the value 0. What the adapter says of itself (base, method, targets, template, seed) goes along, and OUT is a fresh directory
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

static lc_status write(lc_cli *cli, const lc_loaded *l, const char *from, int layout, const char *base_name,
                       const char *out) {
  static const lc_layout layouts[] = {LC_LAYOUT_PEFT_SHIRA, LC_LAYOUT_NATIVE};
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
  LC_GO(lc_adapter_save(l->net->adapter[0], layouts[layout], out,
                        &meta)); /* refuses before anything is written */
  meta.dry = false;
  LC_GO(lc_adapter_save(l->net->adapter[0], layouts[layout], out, &meta));
  LC_GO(lc_tokenizer_write_dir(l->tok, out));
done:
  json_decref(sidecar);
  lc_free(ctx, path);
  return st;
}

lc_status lc_cli_convert_adapter(lc_cli *cli, const char *model, const char *adapter, int layout,
                                 const char *base_name, const char *out) {
  char *from;
  float scale;
  lc_loaded l;
  if (lc_cli_given(cli, "outtype"))
    return lc_usage(cli->ctx, "--outtype is of a model; an adapter's values stay f32");
  if (lc_path_exists(out))
    return lc_fail(cli->ctx, "%s exists: an adapter is written into a new directory", out);
  LC_TRY(lc_cli_adapter_spec(cli, adapter, &from, &scale));
  lc_status st = scale == 1 ? LC_OK : lc_usage(cli->ctx, "-a %s: an adapter is written at scale 1", adapter);
  if (!st) st = lc_cli_load(cli, model, LC_F32, LC_PATCH, true, &l);
  if (!st) {
    st = write(cli, &l, from, layout, base_name, out);
    if (!st && cli->common.json)
      lc_cli_print_json(json_pack("{s:s, s:s}", "output", out, "layout", layout ? "native" : "shira"));
    else if (!st)
      printf("%s\n", out);
    if (st && lc_path_exists(out)) { /* nothing half-written */
      char *why = lc_strdup(cli->ctx, lc_error(cli->ctx));
      lc_remove_tree(cli->ctx, out);
      if (why) lc_fail(cli->ctx, "%s", why);
      lc_free(cli->ctx, why);
    }
    lc_cli_unload(&l);
  }
  lc_free(cli->ctx, from);
  return st;
}
