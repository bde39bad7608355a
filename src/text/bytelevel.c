/* The 256 bytes as printable characters, as GPT-2 fixed them (Radford et al. 2019): the visible characters of
 * Latin-1 stand for themselves; the 68 others, in ascending order, are U+0100 to U+0143, so that a space is
 * U+0120 (a G with a dot). */
#include "text/tokenizer.h"

static bool visible(int b) {
  return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

/* How many hidden bytes are below b: 0-32, 127-160 and 173. */
static int hidden_below(int b) {
  if (b <= 33) return b;
  if (b <= 127) return 33;
  if (b <= 160) return 33 + b - 127;
  return b <= 173 ? 67 : 68;
}

int lc_byte_char(uint8_t byte, char out[2]) {
  int c = visible(byte) ? byte : 256 + hidden_below(byte);
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  out[0] = (char)(0xC0 | c >> 6);
  out[1] = (char)(0x80 | (c & 0x3F));
  return 2;
}

static int char_byte(uint32_t c) {
  if (c < 256) return visible((int)c) ? (int)c : -1;
  if (c >= 256 + 68) return -1;
  int h = (int)c - 256; /* the h-th hidden byte */
  return h < 33 ? h : h < 67 ? 127 + h - 33 : 173;
}

bool lc_chars_to_bytes(const char *text, size_t n, char *out, size_t *n_out) {
  size_t k = 0;
  for (size_t i = 0; i < n;) {
    int step = lc_utf8_step(text + i, n - i);
    int b = step > 0 ? char_byte(lc_utf8_char(text + i, step)) : -1;
    if (b < 0) return false;
    out[k++] = (char)b;
    i += (size_t)step;
  }
  *n_out = k;
  return true;
}
