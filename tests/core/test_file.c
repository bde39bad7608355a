/* Files: mappings and reads, outputs that are whole or absent, trees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/core.h"

static lc_ctx *ctx;
static char root[] = "/tmp/lacuna-file-XXXXXX";

static int setup(void **state) {
  return lc_ctx_new(1, &ctx, NULL) || !mkdtemp(root);
}

static int teardown(void **state) {
  lc_status st = lc_remove_tree(ctx, root);
  size_t left = lc_mem_bytes(ctx, LC_MEM_OTHER);
  lc_ctx_free(ctx);
  return st || left; /* nothing leaks, on failing paths neither */
}

static char *at(const char *name) { /* borrowed until four calls later */
  static char path[4][512];
  static int i;
  i = (i + 1) % 4;
  snprintf(path[i], sizeof path[i], "%s/%s", root, name);
  return path[i];
}

static int entries(const char *dir) {
  int n = 0;
  DIR *d = opendir(dir);
  assert_non_null(d);
  while (readdir(d)) n++;
  closedir(d);
  return n - 2;
}

static void test_map(void **state) {
  lc_map m;
  assert_int_equal(lc_write_file(ctx, at("map"), "0123456789", 10), LC_OK);
  assert_int_equal(lc_map_open(ctx, at("map"), &m), LC_OK);
  assert_int_equal(m.size, 10);
  assert_memory_equal(m.data, "0123456789", 10);
  assert_string_equal(m.path, at("map"));
  lc_map_close(ctx, &m);
  lc_map_close(ctx, &m);
  assert_int_equal(lc_write_file(ctx, at("empty"), "", 0), LC_OK);
  const char *bad[3] = {"empty", "absent", "."}, *say[3] = {"empty", "No such file", "not a regular file"};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(lc_map_open(ctx, at(bad[i]), &m), LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), say[i]));
    assert_non_null(strstr(lc_error(ctx), at(bad[i])));
    assert_null(m.data);
  }
}

static void test_read(void **state) {
  enum { BIG = 300001 };
  char *data, *big = lc_alloc(ctx, LC_MEM_OTHER, BIG);
  size_t size;
  for (int i = 0; i < BIG; i++) big[i] = (char)(i % 251);
  const int sizes[] = {0, 1, 65534, 65535, 65536, 131071, BIG};
  for (int i = 0; i < 7; i++) {
    assert_int_equal(lc_write_file(ctx, at("data"), big, (size_t)sizes[i]), LC_OK);
    assert_int_equal(lc_read_file(ctx, at("data"), BIG, &data, &size), LC_OK);
    assert_int_equal(size, sizes[i]);
    assert_memory_equal(data, big, size);
    assert_int_equal(data[size], 0);
    lc_free(ctx, data);
  }
  assert_int_equal(lc_read_file(ctx, at("data"), BIG - 1, &data, &size), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "longer than 300000"));
  assert_null(data);
  assert_int_equal(lc_read_file(ctx, at("."), BIG, &data, &size), LC_FAILED);
  assert_int_equal(lc_read_file(ctx, at("absent"), BIG, &data, &size), LC_FAILED);
  lc_free(ctx, big);
}

static void assert_holds(const char *path, const char *text) {
  char *data;
  assert_int_equal(lc_read_file(ctx, path, 1000, &data, NULL), LC_OK);
  assert_string_equal(data, text);
  lc_free(ctx, data);
}

static void test_output_is_atomic(void **state) {
  lc_out o;
  assert_int_equal(lc_mkdirs(ctx, at("out")), LC_OK);
  assert_int_equal(lc_out_open(ctx, at("out/f"), &o), LC_OK);
  assert_int_equal(lc_out_printf(&o, "%d,", 1), LC_OK);
  assert_int_equal(lc_out_write(&o, "two", 3), LC_OK);
  assert_false(lc_path_exists(at("out/f")));
  assert_int_equal(lc_out_commit(&o), LC_OK);
  assert_holds(at("out/f"), "1,two");
  assert_int_equal(entries(at("out")), 1);
  lc_out_abort(&o); /* harmless */

  assert_int_equal(lc_out_open(ctx, at("out/f"), &o),
                   LC_OK); /* the old content stays until the new one is whole */
  assert_int_equal(lc_out_write(&o, "half", 4), LC_OK);
  assert_holds(at("out/f"), "1,two");
  lc_out_abort(&o);
  assert_holds(at("out/f"), "1,two");
  assert_int_equal(entries(at("out")), 1);
}

static void test_output_failures(void **state) {
  lc_out o;
  assert_int_equal(lc_out_open(ctx, at("nowhere/f"), &o), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "nowhere/f"));
  assert_int_equal(lc_out_write(&o, "x", 1), LC_FAILED);
  assert_int_equal(lc_out_commit(&o), LC_FAILED);
  lc_out_abort(&o);
  assert_int_equal(lc_mkdirs(ctx, at("isdir")), LC_OK);
  assert_int_equal(lc_out_open(ctx, at("isdir"), &o), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "directory"));
  assert_int_equal(lc_write_file(ctx, at("moved/away"), "x", 1), LC_FAILED);
  /* A failed write is remembered: nothing appears under the name. */
  assert_int_equal(lc_out_open(ctx, at("full"), &o), LC_OK);
  assert_int_equal(close(fileno(o.f)), 0);
  char block[100000] = {0};
  lc_out_write(&o, block, sizeof block);
  assert_int_equal(lc_out_commit(&o), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "full: writing failed"));
  assert_false(lc_path_exists(at("full")));
}

/* Two writers of one name, and what a crash left: nobody is in the way. */
static void test_temporary_names(void **state) {
  lc_out a, b;
  assert_int_equal(lc_mkdirs(ctx, at("two")), LC_OK);
  assert_int_equal(lc_out_open(ctx, at("two/f"), &a), LC_OK);
  assert_int_equal(lc_out_open(ctx, at("two/f"), &b), LC_OK);
  assert_int_equal(lc_out_write(&a, "a", 1), LC_OK);
  assert_int_equal(lc_out_write(&b, "b", 1), LC_OK);
  assert_int_equal(lc_out_commit(&b), LC_OK);
  assert_int_equal(lc_out_commit(&a), LC_OK);
  assert_holds(at("two/f"), "a");
  assert_int_equal(entries(at("two")), 1);
}

/* A pipe or a device stays what it is. The device is reached through a link of our own: should this fail, the
 * link is what is lost. */
static void test_special_files(void **state) {
  struct stat s;
  assert_int_equal(symlink("/dev/null", at("null")), 0);
  assert_int_equal(lc_write_file(ctx, at("null"), "gone", 4), LC_OK);
  assert_int_equal(lstat(at("null"), &s), 0);
  assert_true(S_ISLNK(s.st_mode));
  assert_int_equal(mkfifo(at("pipe"), 0600), 0);
  int fd = open(at("pipe"), O_RDWR | O_NONBLOCK);
  char got[8] = "";
  assert_int_equal(lc_write_file(ctx, at("pipe"), "through", 7), LC_OK);
  assert_int_equal(read(fd, got, 7), 7);
  assert_string_equal(got, "through");
  close(fd);
  assert_int_equal(stat(at("pipe"), &s), 0);
  assert_true(S_ISFIFO(s.st_mode));
}

static void test_trees(void **state) {
  assert_int_equal(lc_mkdirs(ctx, at("t/u//v/")), LC_OK);
  assert_int_equal(lc_mkdirs(ctx, at("t/u/v")), LC_OK);
  assert_true(lc_path_is_dir(at("t/u/v")));
  assert_int_equal(lc_write_file(ctx, at("t/u/file"), "x", 1), LC_OK);
  assert_true(lc_path_exists(at("t/u/file")) && !lc_path_is_dir(at("t/u/file")));
  assert_int_equal(lc_mkdirs(ctx, at("t/u/file/w")), LC_FAILED);
  assert_int_equal(lc_mkdirs(ctx, at("t/u/file")), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "no directory"));

  assert_int_equal(lc_copy_file(ctx, at("t/u/file"), at("t/copy")), LC_OK);
  assert_holds(at("t/copy"), "x");
  assert_int_equal(lc_copy_file(ctx, at("t/absent"), at("t/copy")), LC_FAILED);
  assert_int_equal(lc_copy_file(ctx, at("t/u"), at("t/copy")), LC_FAILED);
  assert_holds(at("t/copy"), "x");

  assert_int_equal(lc_rename_dir(ctx, at("t/u"), at("t/w")), LC_OK);
  assert_false(lc_path_exists(at("t/u")));
  assert_holds(at("t/w/file"), "x");
  assert_int_equal(lc_rename_dir(ctx, at("t/u"), at("t/x")), LC_FAILED);

  assert_int_equal(lc_write_file(ctx, at("kept"), "k", 1), LC_OK); /* links are removed, not followed */
  assert_int_equal(lc_mkdirs(ctx, at("keptdir")), LC_OK);
  assert_int_equal(symlink(at("kept"), at("t/link")), 0);
  assert_int_equal(symlink(at("keptdir"), at("t/linkdir")), 0);
  assert_int_equal(lc_remove_tree(ctx, at("t")), LC_OK);
  assert_false(lc_path_exists(at("t")));
  assert_holds(at("kept"), "k");
  assert_true(lc_path_is_dir(at("keptdir")));
  assert_int_equal(lc_remove_tree(ctx, at("t")), LC_OK); /* absent is fine */
}

static void test_join(void **state) {
  char *a = lc_path_join(ctx, "dir", "f"), *b = lc_path_join(ctx, "dir/", "f"),
       *c = lc_path_join(ctx, "/", "f");
  assert_string_equal(a, "dir/f");
  assert_string_equal(b, "dir/f");
  assert_string_equal(c, "/f");
  lc_free(ctx, a);
  lc_free(ctx, b);
  lc_free(ctx, c);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_map),
                                     cmocka_unit_test(test_read),
                                     cmocka_unit_test(test_output_is_atomic),
                                     cmocka_unit_test(test_join),
                                     cmocka_unit_test(test_special_files),
                                     cmocka_unit_test(test_output_failures),
                                     cmocka_unit_test(test_trees),
                                     cmocka_unit_test(test_temporary_names)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
