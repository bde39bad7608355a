/* Rules that reward an answer. Each says 1 or 0 of a text; further ones are further rows. */
#include <math.h>
#include <string.h>
#include "train/objective.h"

static double exact(const char *answer, size_t n, bool found, const char *gold) {
  return found && lc_same_answer(answer, n, gold, strlen(gold));
}

static double number(const char *answer, size_t n, bool found, const char *gold) {
  double a, b;
  return found && lc_answer_number(answer, n, &a) && lc_answer_number(gold, strlen(gold), &b) &&
         fabs(a - b) <= 1e-9 * fmax(1, fabs(b));
}

static double format(const char *answer, size_t n, bool found, const char *gold) {
  return found;
}

const lc_reward lc_rewards[] = {
    {"exact", "the answer is the row's, as lacuna eval compares them", exact},
    {"number", "the answer is a number and equals the row's", number},
    {"format", "the expression matches", format},
};
const int lc_n_rewards = sizeof lc_rewards / sizeof *lc_rewards;
