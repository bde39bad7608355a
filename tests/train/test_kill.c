/* kill -9 at any moment, then a resume: the run that was never killed, bit for bit. Children train and are
 * killed after times that grow from nothing to half a run, some of them again while they resume. */
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "support/world_test.h"

static t_spec spec = {.method = "spiel",
                      .set = "period=4 accumulate=2",
                      .opts = "steps=10 batch=6 micro-batch=2 eval-every=2 save-every=3 density=0.05"};

/* Trains in a child. Kills it after `us` microseconds (< 0: never). True when it ended by itself, well. */
static bool child(const char *out, bool resume, long us) {
  pid_t pid = fork();
  if (pid == 0) {
    spec.out = out;
    spec.resume = resume;
    lc_status st = t_train(&w, &spec);
    if (st) fprintf(stderr, "%s: %s\n", out, lc_error(w.ctx));
    _exit(st);
  }
  assert_true(pid > 0);
  if (us >= 0) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
    kill(pid, SIGKILL);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  if (WIFEXITED(status) && WEXITSTATUS(status))
    fail_msg("%s %s: exit status %d", out, resume ? "resumed" : "begun", WEXITSTATUS(status));
  return WIFEXITED(status);
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define STEPS                                                                                                \
  "SELECT group_concat(step || ':' || loss || ':' || lr || ':' || grad_norm || ':' || tokens || ':' || "     \
  "targets) FROM steps"
#define EVALS "SELECT group_concat(step || ':' || loss || ':' || targets) FROM evals"

static void test_kills(void **state) {
  enum { RUNS = 14 };
  double began = seconds();
  assert_true(child("whole", false, -1));
  double run = seconds() - began;
  int killed = 0;
  for (int i = 0; i < RUNS; i++) {
    long us =
        (long)(1e6 * run * (i + 1) / (2 * RUNS)); /* the first run also loaded pages that later ones find */
    bool done = child("parts", false, us);
    /* before the run's first row is written there is nothing to resume: then it begins again */
    for (int k = 0; !done && k < 3; k++) {
      bool begun = lc_path_exists(t_out(&w, "parts", "run.sqlite"));
      if (!begun) lc_remove_tree(w.ctx, t_out(&w, "parts", ""));
      killed++;
      done = child("parts", begun, k == 2 ? -1 : us / 2); /* twice again while it resumes, then to the end */
    }
    assert_true(t_same_files(t_out(&w, "whole", "checkpoint-10/state.safetensors"),
                             t_out(&w, "parts", "checkpoint-10/state.safetensors")));
    assert_true(t_same_files(t_out(&w, "whole", "lacuna_adapter.safetensors"),
                             t_out(&w, "parts", "lacuna_adapter.safetensors")));
    assert_string_equal(t_query(&w, "whole", STEPS), t_query(&w, "parts", STEPS));
    assert_string_equal(t_query(&w, "whole", EVALS), t_query(&w, "parts", EVALS));
    assert_int_equal(t_lines(t_out(&w, "whole", "log.jsonl"), "{"),
                     t_lines(t_out(&w, "parts", "log.jsonl"), "{"));
    assert_false(lc_path_exists(t_out(&w, "parts", ".lacuna-new")));
    lc_remove_tree(w.ctx, t_out(&w, "parts", ""));
  }
  assert_true(killed >= 3); /* a busy machine may be too late with some */
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_kills)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
