#!/usr/bin/env python3
"""Token ids: lacuna against Hugging Face tokenizers and llama.cpp, on random strings and on a real GGUF.

  tokenizer_parity.py GGUF [--lacuna BIN] [-n 10000] [--seed 1] [--no-llama] [--show 20]

Hugging Face's side is built from the GGUF's own vocabulary and merges with Digits(individual_digits=True) and ByteLevel, which is
what the pre-tokenizer `smollm` means. The strings are of code points assigned in Unicode 14 (Python 3.11 knows exactly those): whole
scripts, words, numbers, white space, control characters, emoji, special tokens, and all of it mixed.

Where Hugging Face and llama.cpp differ, Hugging Face counts; those strings are listed by cause. Exit status 1 when lacuna differs from
Hugging Face, or from llama.cpp where the two others agree, or when decoding does not give the bytes back.
"""
import argparse
import json
import random
import subprocess
import sys
import unicodedata


def assigned():
    if unicodedata.unidata_version != "14.0.0":
        print(f"note: this Python has Unicode {unicodedata.unidata_version}, newer code points may differ", file=sys.stderr)
    by_block = {}
    for c in range(0x110000):
        if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co"):
            by_block.setdefault(c >> 7, []).append(chr(c))
    return list(by_block.values())


WORDS = ("the The THE don't I'll we've they're he'd I'm it's 'S 'LL 'Re l'été naïve Straße ﬁn ΑΒΓ привет мир 你好世界 日本語 한국어 "
         "العربية हिन्दी ไทย e\u0301 x² ½ Ⅷ ٣٤ 12 345 6789 3.14 1e-5 0x1F foo_bar camelCase http://a.b/c?d=e#f "
         "🙂 👩‍👩‍👧 🇫🇷 \u200d \ufeff \u180e \u2028 \x1c \x85").split(" ")
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u2003", "\u3000", "\v", "\f", "        "]


def random_string(rng, blocks, specials):
    kind, out = rng.random(), []
    for _ in range(1 + int(rng.expovariate(1 / 12))):
        r = rng.random()
        if kind < 0.15:
            out.append(rng.choice(rng.choice(blocks)))
        elif r < 0.35:
            out.append(rng.choice(WORDS))
        elif r < 0.55:
            out.append(rng.choice(SPACES))
        elif r < 0.70:
            block = rng.choice(blocks)
            out.append("".join(rng.choice(block) for _ in range(rng.randint(1, 8))))
        elif r < 0.80:
            out.append("".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(1, 12))))
        elif r < 0.88:
            out.append("".join(rng.choice("0123456789") for _ in range(rng.randint(1, 9))))
        elif r < 0.92:
            out.append(rng.choice(specials))
        elif r < 0.94:
            out.append(rng.choice("ab \u4e00\n") * rng.randint(1, 300))
        else:
            out.append(rng.choice(rng.choice(blocks)))
    return "".join(out)


AWKWARD = ["", " ", "\n", "a", "\0", "a\0b", "'", "''s", "I'LL", "  leading", "trailing  ", "a  b", " \n a", "1 2", "1  2", "12345", "x1y2z3", "²³¹",
           "<|im_start|>", "<|im_start|>user\nhi<|im_end|>\n", "<|im_end|><|im_end|>", "a <|im_end|> b", "<|im_en", "<|endoftext|>x", "é", "e\u0301",
           "\ufeffBOM", "\u180e", " \u180e ", "\u200b", "a\u0301\u0302\u0303", "👩‍👩‍👧‍👦", "\U0010fffd", "\ue000", "a" * 5000, " " * 5000, "\n" * 300, "ab" * 3000, "th\x04e", "in\x13g \x06 the\x1d\x16re"]


def build_hf(meta):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    specials = [t for t, kind in zip(tokens, meta["tokenizer.ggml.token_type"]) if kind == 3]
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    return tok, specials


def run_lines(argv, lines):
    done = subprocess.run(argv, input="".join(json.dumps(x) + "\n" for x in lines).encode(), stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{argv[0]}: exit status {done.returncode}")
    return [json.loads(x) for x in done.stdout.decode().rstrip("\n").split("\n")]


def lacuna_ids(args, strings):
    out = run_lines([args.lacuna, "tokenize", "-m", args.gguf, "--lines"], strings)
    return [x["ids"] if isinstance(x, dict) else x for x in out]


def lacuna_texts(args, ids):
    out = run_lines([args.lacuna, "tokenize", "-m", args.gguf, "--lines", "--decode"], ids)
    return [x["text"] if isinstance(x, dict) else x for x in out]


def llama_ids(path, strings):
    import llama_cpp
    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    return [model.tokenize(s.encode(), add_bos=False, special=True) for s in strings]


def missing_bytes(meta):
    """Bytes that no token of the vocabulary stands for."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    char = {**{b: chr(b) for b in visible}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}
    tokens = set(meta["tokenizer.ggml.tokens"])
    return {b for b in range(256) if char[b] not in tokens}


def cause(text, missing):
    """Why the two others differ, as far as it is known."""
    if missing & set(text.encode()):
        return "a byte without a token (HF drops it before merging, llama.cpp after)"
    return "other"


def main():
    import gguf
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("gguf")
    p.add_argument("--lacuna", default="build/lacuna")
    p.add_argument("-n", type=int, default=10000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--no-llama", action="store_true")
    p.add_argument("--show", type=int, default=20)
    args = p.parse_args()
    meta = {k: f.contents() for k, f in gguf.GGUFReader(args.gguf).fields.items() if k.startswith("tokenizer.")}
    hf, specials = build_hf(meta)
    rng, blocks = random.Random(args.seed), assigned()
    strings = AWKWARD + [random_string(rng, blocks, specials) for _ in range(args.n)]
    ours = lacuna_ids(args, strings)
    theirs = [hf.encode(s, add_special_tokens=False).ids for s in strings]
    llama = theirs if args.no_llama else llama_ids(args.gguf, strings)
    back = lacuna_texts(args, ours)
    assert len(ours) == len(theirs) == len(llama) == len(back) == len(strings)
    missing = missing_bytes(meta)
    failures, listed, lost = [], {}, 0
    for s, a, b, c, text in zip(strings, ours, theirs, llama, back):
        if a != b:
            failures.append(("Hugging Face", s, a, b))
        elif b != c:
            listed.setdefault(cause(s, missing), []).append((s, b, c))
        if missing & set(s.encode()):
            lost += 1
        elif text != s:
            failures.append(("the text itself", s, text, s))
    print(f"{len(strings)} strings, {sum(map(len, theirs))} ids; {lost} strings hold a byte that the vocabulary has no token for")
    print(f"lacuna = Hugging Face: {sum(a == b for a, b in zip(ours, theirs))}")
    if not args.no_llama:
        print(f"lacuna = llama.cpp:    {sum(a == c for a, c in zip(ours, llama))}")
        for why, cases in listed.items():
            print(f"Hugging Face and llama.cpp differ, {why}: {len(cases)}")
            for s, b, c in cases[: args.show]:
                print(f"  {s[:60]!r}\n    HF        {b[:24]}\n    llama.cpp {c[:24]}")
    for other, s, a, b in failures[: args.show]:
        print(f"DIFFERS from {other}: {s[:80]!r}\n  lacuna {str(a)[:200]}\n  other  {str(b)[:200]}")
    print("ok" if not failures else f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
