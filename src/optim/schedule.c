/* Learning-rate schedules as transformers numbers them: update s+1 (s = 0, 1, …) uses factor(s), so the first
 * update of a warm-up has rate 0. warm-up s/w;  linear (planned−s)/(planned−w);  cosine ½(1+cos
 * π(s−w)/(planned−w));  constant 1. */
#include "optim/optim.h"
#include <math.h>

double lc_schedule_at(const lc_schedule *s, int64_t step) {
  if (step < s->warmup) return (double)step / (double)s->warmup;
  if (s->kind == LC_SCHEDULE_CONSTANT) return 1;
  double rest = (double)lc_max64(1, s->planned - s->warmup), done = (double)(step - s->warmup) / rest;
  if (s->kind == LC_SCHEDULE_LINEAR) return fmax(0, (double)(s->planned - step) / rest);
  return fmax(0, 0.5 * (1 + cos(M_PI * done)));
}

int64_t lc_warmup_steps(double warmup, int64_t planned) {
  return warmup >= 1 ? (int64_t)warmup : (int64_t)ceil(warmup * (double)planned);
}
