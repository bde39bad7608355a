/* The pre-tokenizers that have a name in GGUF (tokenizer.ggml.pre), each by its structure in tokenizer.json's
 * terms.
 *
 * The names and what they mean are llama.cpp's (src/llama-vocab.cpp); "default" is a pre-tokenizer of that
 * name there, no stand-in for unknown ones. A name that is not here is an error: another's way of cutting
 * words would give other ids, silently. */
#include "text/tokenizer.h"
#include <string.h>

#define GPT2_WORDS                                                                                           \
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)"
#define SPLIT(pattern)                                                                                       \
  "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define BYTE_LEVEL(words)                                                                                    \
  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":" words "}"
#define SEQUENCE(list) "{\"type\":\"Sequence\",\"pretokenizers\":[" list "]}"

static const lc_pre_row rows[] = {
    {{"smollm"},
     SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}," BYTE_LEVEL("true")),
     false,
     false},
    {{"gpt-2"}, BYTE_LEVEL("true"), false, false},
    {{"llama-bpe", "llama3", "llama-v3"},
     SEQUENCE(SPLIT("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,"
                    "3}| "
                    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|"
                    "\\\\s+") "," BYTE_LEVEL("false")),
     true,
     true},
    {{"default"},
     SEQUENCE(SPLIT("[\\\\p{P}\\\\$\\\\+<=>\\\\^~\\\\|]+") "," SPLIT(GPT2_WORDS) "," SPLIT(
         "\\\\p{N}+") "," SPLIT("[0-9][0-9][0-9]") "," BYTE_LEVEL("false")),
     false,
     false},
};

const lc_pre_row *lc_pre_at(int i) {
  return i >= 0 && (size_t)i < sizeof rows / sizeof *rows ? &rows[i] : NULL;
}

const lc_pre_row *lc_pre_by_name(lc_str name) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (const char *const *s = rows[i].names; *s; s++)
      if (strlen(*s) == name.n && memcmp(*s, name.data, name.n) == 0) return &rows[i];
  return NULL;
}
