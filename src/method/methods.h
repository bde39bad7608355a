/* One row a published method. */
#ifndef LC_METHODS_H
#define LC_METHODS_H
#include "train/train.h"
extern const lc_method lc_method_mezo, lc_method_sparse_mezo;
extern const lc_method lc_method_sara;
extern const lc_method lc_method_full, lc_method_lora, lc_method_shira, lc_method_spiel, lc_method_allora,
    lc_method_llava_mole, lc_method_snella, lc_method_mosa, lc_method_lift, lc_method_lt_sft, lc_method_s2ft,
    lc_method_rl_subnetworks, lc_method_dsee;
#endif
