/* Runs a fuzz target on every file of the directories named: what once crashed, and the seeds, in the
 * ordinary tests. */
#include <dirent.h>
#include "fuzz.h"

static int replay_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) return perror(path), 1;
  uint8_t *data = malloc(1 << 20);
  size_t n = data ? fread(data, 1, 1 << 20, f) : 0;
  fclose(f);
  uint8_t *exact = malloc(n ? n : 1); /* so that a read past the end is seen under the sanitizers */
  FUZZ_CHECK(data && exact);
  memcpy(exact, data, n);
  LLVMFuzzerTestOneInput(exact, n);
  free(exact);
  free(data);
  return 0;
}

int main(int argc, char **argv) {
  int files = 0, failed = 0;
  for (int i = 1; i < argc; i++) {
    DIR *d = opendir(argv[i]);
    if (!d) return perror(argv[i]), 1;
    for (struct dirent *e; (e = readdir(d));) {
      char path[4096];
      if (e->d_name[0] == '.') continue;
      snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
      failed += replay_file(path);
      files++;
    }
    closedir(d);
  }
  printf("%d files\n", files);
  return failed || !files;
}
