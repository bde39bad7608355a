#!/usr/bin/env python3
"""Golden files of the tokenizer: small byte-level BPE vocabularies, trained here on text made up here, and what Hugging Face
tokenizers makes of awkward and random strings.

  make_tokenizer_golden.py [OUT]        OUT: tokenizer/ beside this script

Each directory is an HF directory without weights (tokenizer.json, tokenizer_config.json, …) with cases.json:
  cases  [{text, ids, plain}]   ids with special tokens recognised; plain, where it differs, with them taken as text
  frames [{a, b, max, ids, types}] of encoders: with the special tokens around a text or a pair, cut to max tokens
  chat   [{messages, prompt, text, ids, mask}]   the template by Jinja; mask: 1 for ids that overlap an assistant's content or end token
"""
import json
import os
import random
import sys
import unicodedata

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CHATML_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def made_up_text(rng, n_lines):
    parts = "ba ke lo mi nu ra se to vi wa tion ing er th st qu".split()
    words = ["".join(rng.choice(parts) for _ in range(rng.randint(1, 4))) for _ in range(300)]
    words += ["don't", "we'll", "they've", "it's", "über", "café", "naïve", "привет", "мир", "日本語", "你好", "🙂"]
    weights = [1 / (i + 3) for i in range(len(words))]
    for _ in range(n_lines):
        line = rng.choices(words, weights, k=rng.randint(3, 12))
        if rng.random() < 0.3:
            line.insert(rng.randrange(len(line)), str(rng.randint(0, 99999)))
        if rng.random() < 0.2:
            line[0] = "    " + line[0] + "("
        yield " ".join(w.capitalize() if rng.random() < 0.1 else w for w in line) + rng.choice([".", "!", ",", "?", "\n", "\n\n"])


def assigned():
    assert unicodedata.unidata_version == "14.0.0", "run this with Python 3.11, whose Unicode is 14"
    blocks = {}
    for c in range(0x20000):
        if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co"):
            blocks.setdefault(c >> 7, []).append(chr(c))
    return list(blocks.values())


AWKWARD = ["", " ", "\n", "a", "'", "''s", "I'LL don't", "  two", "two  ", "a  b", " \n a", "1 2", "12345", "x1y2z3", "²³¹½Ⅷ٣٤", "tion  tion",
           "<|im_start|>", "<|im_start|>user\nhi<|im_end|>\n", "<|im_end|><|im_end|>", "a <|im_end|> b", "<|im_en", "<tool>x</tool>", "a <tool> b",
           "é", "e\u0301", "\ufeffa", "\u180e", "a \u180e b", "\u200b", "a\u0301\u0302", "👩‍👩‍👧", "\U0010fffd", "\ue000", "\r\n\r\n", "\t\ttab", "a\u00a0b\u3000c",
           "th\x04e", "\x85\x1c", "ba" * 200, " " * 100, "'ſ 'K", "ﬁn ǅ", "<mask> x <mask>", "x  <mask>\n\n y", "A\u030a \u212b"]


def random_string(rng, blocks, specials):
    out = []
    for _ in range(rng.randint(1, 6)):
        r = rng.random()
        if r < 0.3:
            out.append(rng.choice(["bake", "tion", "Loming", "don't", "über", "мир", "we'll", "日本語"]))
        elif r < 0.55:
            out.append(rng.choice([" ", "  ", "\n", "\n\n", "\t", "\u00a0", " \n "]))
        elif r < 0.7:
            out.append(str(rng.randint(0, 99999)))
        elif r < 0.75:
            out.append(rng.choice(specials))
        else:
            block = rng.choice(blocks)
            out.append("".join(rng.choice(block) for _ in range(rng.randint(1, 4))))
    return "".join(out)


def train(pre, vocab_size, specials, alphabet, normalizer=None):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre
    if normalizer:
        tok.normalizer = normalizer
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(list(made_up_text(random.Random(7), 3000)), trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False))
    return tok


def cases(tok, rng, blocks, specials, n):
    texts = AWKWARD + [random_string(rng, blocks, specials) for _ in range(n)]
    out = []
    for text in texts:
        case = {"text": text, "ids": tok.encode(text, add_special_tokens=False).ids}
        tok.encode_special_tokens = True
        plain = tok.encode(text, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        if plain != case["ids"]:
            case["plain"] = plain
        out.append(case)
    return out


CHATS = [
    [("user", "bake a lo")],
    [("user", "Hi"), ("assistant", "Hello there.")],
    [("system", "Be kind."), ("user", "2+2?"), ("assistant", "4"), ("user", "sure?"), ("assistant", "Yes, 4!\n")],
    [("user", "x"), ("assistant", "\n\n  starts with newlines"), ("user", " "), ("assistant", "")],
    [("user", "tell <|im_end|> me"), ("assistant", "привет мир 🙂")],
    [("assistant", "first"), ("user", "then")],
    [],
]


def chats(tok, template):
    render = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template).render
    out = []
    for messages in CHATS:
        for prompt in (False, True):
            m = [{"role": r, "content": c} for r, c in messages]
            text = render(messages=m, add_generation_prompt=prompt)
            spans, at = [], 0
            for r, c in messages:
                turn = f"<|im_start|>{r}\n"
                at = text.index(turn + c + "<|im_end|>\n", at) + len(turn)
                end = at + len(c) + len("<|im_end|>")
                if r == "assistant":
                    spans.append((at, end))
                at = end
            enc = tok.encode(text, add_special_tokens=False)
            mask = [int(any(a < t and b > f for f, t in spans)) for a, b in enc.offsets]
            out.append({"messages": m, "prompt": prompt, "text": text, "ids": enc.ids, "mask": mask})
    return out


def write(out, name, tok, config, generation, case_list, chat_list, edit=None):
    d = os.path.join(out, name)
    os.makedirs(d, exist_ok=True)
    root = json.loads(tok.to_str())
    if edit:
        edit(root)

    def dump(file, o):
        with open(os.path.join(d, file), "w", encoding="utf-8") as f:
            json.dump(o, f, ensure_ascii=file == "cases.json", separators=(",", ":"))
            f.write("\n")
    dump("tokenizer.json", root)
    dump("tokenizer_config.json", config)
    dump("generation_config.json", generation)
    dump("cases.json", {"cases": case_list, "chat": chat_list})


def old_spelling(root):
    """As the first tokenizer.json files had it: merges as strings, no type and no later members."""
    model = root["model"]
    for key in ("type", "byte_fallback", "ignore_merges"):
        model.pop(key)
    model["merges"] = [" ".join(m) for m in model["merges"]]
    model["continuing_subword_prefix"] = model["end_of_word_suffix"] = ""
    root["pre_tokenizer"].pop("use_regex")


BERT_AWKWARD = ["", " ", "Hello, World!", "h\u00e9llo W\u00d6RLD", "e\u0301te\u0301", "\u4f60\u597d world", "a\u65e5\u672c\u8a9eb", "don't stop-it", "x" * 100,
                "x" * 101, "ba" * 200, "a\tb\nc\rd", "a\x00b", "a\u200bb\ufeffc\ufffd", "\x01\x7f", "[CLS] a [SEP]", "[MASK] is [MASK]ed", "[mask]", "\u0130stanbul I\u0307",
                "\u01c4\u01c5", "\u1e9e \u00df", "\u03a3\u03b1\u03c2", "$5.00 + 3^2 = `x`~|", "\u00bfqu\u00e9?", "\uac00\ub098\ub2e4", "\u0e01\u0e33", "\U0001f642 ok", "\u3000wide\u00a0space",
                "\u2014dash\u2026", "\uff21\uff22\uff23", "tion tioning", "unknown\u2603word", "\U00020000\U0002a6df", "A\u030a \u212b", "\u00ad soft"]


def known(blocks):
    """Characters that the library's tables, of Unicode 8, class as today's do."""
    clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    pre = pre_tokenizers.BertPreTokenizer()
    out = []
    for block in blocks:
        keep = []
        for c in block:
            kind = unicodedata.category(c)
            gone, mark = kind in ("Mn", "Cf"), len(pre.pre_tokenize_str("a" + c + "b")) == 3
            if (not gone or clean.normalize_str(c) == "") and mark == (kind[0] == "P" or (c < "\x7f" and c in "$+<=>^`|~")):
                keep.append(c)
        if keep:
            out.append(keep)
    return out


def frames(tok, rng, texts, n):
    """[{a, b, max, ids, types}]: what stands around a text or a pair, cut to max tokens, longest first."""
    out = []
    for i in range(n):
        a, b = rng.choice(texts), rng.choice(texts) if i % 2 else None
        most = rng.choice([5, 8, 12, 40, 200])
        tok.enable_truncation(most)
        enc = tok.encode(a, b) if b is not None else tok.encode(a)
        out.append(dict(a=a, **({} if b is None else {"b": b}), max=most, ids=enc.ids, types=enc.type_ids))
    tok.no_truncation()
    return out


def write_encoder(out, name, tok, config, rng, blocks, specials, awkward, n):
    case_list = []
    for text in awkward + [random_string(rng, blocks, specials) for _ in range(n)]:
        case_list.append(dict(text=text, ids=tok.encode(text, add_special_tokens=False).ids))
        tok.encode_special_tokens = True
        plain = tok.encode(text, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        if plain != case_list[-1]["ids"]:
            case_list[-1]["plain"] = plain
    framed = frames(tok, rng, [c["text"] for c in case_list], 80)
    write(out, name, tok, config, {}, case_list, [])
    path = os.path.join(out, name, "cases.json")
    with open(path, encoding="utf-8") as f:
        cases_json = json.load(f)
    cases_json["frames"] = framed
    with open(path, "w", encoding="utf-8") as f:
        json.dump(cases_json, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def encoders(out, blocks):
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("".join(made_up_text(random.Random(7), 3000))) - set(" \n"))
    for name, lowercase in (("bert", True), ("bert-cased", False)):
        tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tok.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=None, clean_text=True, handle_chinese_chars=True)
        tok.pre_tokenizer, tok.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(prefix="##")
        tok.train_from_iterator(list(made_up_text(random.Random(7), 3000)), trainers.WordPieceTrainer(
            vocab_size=600, special_tokens=specials, initial_alphabet=letters, show_progress=False))
        tok.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                           special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        config = {"do_lower_case": lowercase, "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
                  "mask_token": "[MASK]", "tokenize_chinese_chars": True, "strip_accents": None, "tokenizer_class": "BertTokenizer"}
        write_encoder(out, name, tok, config, random.Random(12), known(blocks), specials, BERT_AWKWARD, 250)
        if name == "bert-cased":  # as files were before tokenizer.json
            vocab = tok.get_vocab()
            with open(os.path.join(out, name, "vocab.txt"), "w", encoding="utf-8") as f:
                f.write("".join(t + "\n" for t in sorted(vocab, key=vocab.get)))
            os.remove(os.path.join(out, name, "tokenizer.json"))

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tok = train(pre_tokenizers.ByteLevel(add_prefix_space=False), 520, specials, alphabet)
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    write_encoder(out, "roberta", tok, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}, random.Random(13),
                  blocks, specials + ["<mask>"], AWKWARD, 60)


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")
    blocks, rng = assigned(), random.Random(11)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

    encoders(out, blocks)
    # smollm: as SmolLM2 has it; some bytes have no token there either
    few = [c for c in alphabet if c not in "\u0104\u0106ÀÁñòõö÷øùúûüýþÿ"]
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok = train(pre, 900, chat, few)
    tok.add_tokens([AddedToken("<tool>", normalized=False)])
    write(out, "smollm", tok,
          {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
           "chat_template": SMOLLM2_TEMPLATE, "model_max_length": 8192},
          {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
          cases(tok, rng, blocks, chat + ["<tool>"], 300), chats(tok, SMOLLM2_TEMPLATE))

    # gpt2: ByteLevel alone, written as old files are
    tok = train(pre_tokenizers.ByteLevel(add_prefix_space=False), 520, ["<|endoftext|>"], alphabet)
    write(out, "gpt2", tok, {"model_max_length": 10**30}, {"bos_token_id": 0, "eos_token_id": 0},
          cases(tok, rng, blocks, ["<|endoftext|>"], 60), [], old_spelling)

    # llama3: one pattern, ignore_merges, BOS in front, special tokens outside of the model's vocabulary
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok = train(pre, 520, [], alphabet)
    tok.model.ignore_merges = True
    root = json.loads(tok.to_str())
    root["model"]["vocab"]["\u0120whole"] = len(root["model"]["vocab"])  # a token that no merge makes
    tok = Tokenizer.from_str(json.dumps(root))
    tok.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    n = tok.get_vocab_size()
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B", special_tokens=[("<|begin_of_text|>", n - 2)])])
    case_list = cases(tok, rng, blocks, ["<|begin_of_text|>", "<|eot_id|>", " whole", "whole"], 60)
    write(out, "llama3", tok, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
          {"bos_token_id": n - 2, "eos_token_id": [n - 1, n - 2]}, case_list, [])

    # odd: NFC, a removed separator, a prefix space, tokens that swallow white space, an unk_token, another spelling of chatml
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split("|", "removed"), pre_tokenizers.Split(Regex(r"[A-Z]+"), "removed", invert=False),
                                   pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tok = train(pre, 520, ["<unk>", *chat], few, normalizers.NFC())
    root = json.loads(tok.to_str())
    root["model"]["unk_token"], root["model"]["fuse_unk"] = "<unk>", True
    tok = Tokenizer.from_str(json.dumps(root))
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False, special=True)])
    tok.add_tokens([AddedToken("\u00e9t\u00e9", normalized=True)])
    write(out, "odd", tok,
          {"bos_token": None, "eos_token": {"content": "<|im_end|>", "special": True}, "chat_template": [
              {"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML_TEMPLATE}]}, {},
          cases(tok, rng, blocks, ["<mask>", "<unk>", "e\u0301te\u0301", "\u00e9t\u00e9", "|", "A|B"], 120), chats(tok, CHATML_TEMPLATE))


if __name__ == "__main__":
    main()
