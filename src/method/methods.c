/* The table of methods: `lacuna methods`, flags, recipes and tests walk it. A method is one file here and one row. */
#include <string.h>
#include "method/methods.h"

const lc_method *const lc_methods[] = {
    &lc_method_mezo,       &lc_method_sparse_mezo, &lc_method_full,           &lc_method_lora,
    &lc_method_shira,      &lc_method_spiel,       &lc_method_allora,         &lc_method_sara,
    &lc_method_llava_mole, &lc_method_snella,      &lc_method_mosa,           &lc_method_lift,
    &lc_method_lt_sft,     &lc_method_s2ft,        &lc_method_rl_subnetworks, &lc_method_dsee};
const int lc_n_methods = sizeof lc_methods / sizeof *lc_methods;
