#!/usr/bin/env python3
"""Record what HuggingFace tokenizers does: tests/golden/tokenizer_cases.json, read by tests/unit/test_tokenizer.c.

    pip install tokenizers && python3 tests/golden/make_tokenizer_cases.py [--dump DIR]

One small byte-level BPE (trained here on LICENSE) in many variants, each a patch of top-level keys of its tokenizer.json:
{"base": tokenizer, "texts": [...], "variants": [{"name", "patch", "ids": [[...] per text], "special": [[...]],
"decoded": [...], "plain": [...]}]}. ids: without, special: with add_special_tokens (null: the same); decoded: with special
tokens (null: the text), plain: without (null: as decoded). --dump also writes each variant as DIR/NAME/tokenizer.json, for larger comparisons.
"""
import json
import os
import random
import sys

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
MARKS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": False, "use_regex": regex}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def base():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train([os.path.join(HERE, "..", "..", "LICENSE")], trainers.BpeTrainer(
        vocab_size=640, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), special_tokens=[],
        show_progress=False))
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>"])
    return json.loads(t.to_str())


def added(vocab, *tokens):
    out = []
    for content, flags in tokens:
        taken = len([t for t in out if t["id"] >= len(vocab)])
        out.append(dict(id=vocab.get(content, len(vocab) + taken), content=content, single_word="w" in flags,
                        lstrip="l" in flags, rstrip="r" in flags, normalized="n" in flags, special="s" in flags))
    return out


def smollm(b):
    """As SmolLM's: specials first, and no tokens for some bytes of control characters and unassigned planes. What stood
    around a dropped byte may merge: "-\\x04-"."""
    lost = "\u0104\u0106\u0113\u0114\u0116\u011d\u00f1\u00f2"  # 0x04 0x06 0x13 0x14 0x16 0x1d 0xf1 0xf2
    words = [t for t in sorted(b["model"]["vocab"], key=b["model"]["vocab"].get) if t not in lost]
    vocab = {t: i for i, t in enumerate(["<|endoftext|>", "<|im_start|>"] + words + ["--"])}
    return {"normalizer": None, "pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level(False, True)),
            "model": dict(b["model"], vocab=vocab, merges=b["model"]["merges"] + [["-", "-"]]), "added_tokens": added(vocab, ("<|endoftext|>", "s"), ("<|im_start|>", "s"))}


def variants(b):
    n = len(b["model"]["vocab"])
    merges = b["model"]["merges"]
    model = b["model"]
    whole = dict(model, ignore_merges=True, vocab=dict(model["vocab"], **{"Ġnaivety": n, "zzzz": n + 1}))
    template = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [n], "tokens": ["<|endoftext|>"]},
                           "<|im_start|>": {"id": "<|im_start|>", "ids": [n + 1], "tokens": ["<|im_start|>"]}}}
    tokens = added(model["vocab"], ("<|endoftext|>", "s"), ("<s>", "sl"), ("</s>", "sr"), ("<mask>", "slr"), ("WORD", "w"),
                   ("WORDS", "wn"), ("caf\u00e9", "n"), ("cafe\u0301s", "n"), ("  two", "l"), ("a b\n", ""), ("\u1e0b\u0323", "n"),
                   ("<s><s>", ""), ("Ġx", ""), ("e", "w"), (" ", "sr"))
    return {
        "qwen": {},
        "llama": {"normalizer": None, "pre_tokenizer": sequence(split(LLAMA), byte_level())},
        "gpt2": {"normalizer": None, "pre_tokenizer": byte_level(False, True)},
        "gpt2_prefix": {"pre_tokenizer": byte_level(True, True)},
        "prefix_only": {"pre_tokenizer": sequence(split(QWEN), byte_level(True, False))},
        "starcoder": {"normalizer": None, "pre_tokenizer": sequence({"type": "Digits", "individual_digits": True},
                                                                    byte_level(False, True))},
        "digit_runs": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level(True, True))},
        "marks": {"pre_tokenizer": sequence(split(MARKS), byte_level())},
        "o200k": {"normalizer": None, "pre_tokenizer": sequence(split(O200K), byte_level())},
        "deepseek": {"normalizer": {"type": "Sequence", "normalizers": []},
                     "pre_tokenizer": sequence(split(r"\p{N}{1,3}"), split(HAN), split(DEEPSEEK), byte_level())},
        "gaps": {"pre_tokenizer": sequence(split(r"b*|\d+"), byte_level())},
        "lines": {"pre_tokenizer": sequence(split(r"^.|.$|(?<=a)b"), byte_level())},
        "whole_bytes": {"pre_tokenizer": byte_level()},
        "old_merges": {"model": dict(model, merges=["#version: 0.2"] + [" ".join(m) for m in merges],
                                     fuse_unk=False, dropout=None, end_of_word_suffix="")},
        "ignore_merges": {"model": whole, "added_tokens": added(whole["vocab"], ("<|endoftext|>", "s"), ("<|im_start|>", "s"))},
        "added": {"added_tokens": tokens},
        "smollm": smollm(b),
        "template": {"post_processor": {"type": "Sequence", "processors": [byte_level(True, True), template]}},
    }


def texts():
    r = random.Random(7)
    out = ["", " ", "\n", "Hello world", "  two  spaces\t\ttabs \r\n\r\n end\n", "I'll we'VE it's 'S 'ſ 'ſt they'RE x'y ''",
           "12345 1 22 333 ٣٤٥ ½ Ⅷ ²", "naïve cafe\u0301 café cafés cafe\u0301s A\u030a \u212b \u1e0b\u0323 d\u0323\u0307 q\u0307\u0323",
           "하\u1112\u1161\u11ab 한국어 \uac00\u11a8", "你好，世界。日本語テスト ひらがな abc漢字123", "😀 👨‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️", "हिन्दी क्षत्रिय தமிழ் ไทย ภาษา",
           "def f(x):\n\treturn {'a': [1, 2.5e-3]}  # comment\n\n\n    pass\n", "a\u00a0b\u2003c\u3000d\u2028e\u180ef\u200bg\ufeffh",
           "<|endoftext|>", "a<|endoftext|><|im_start|>user\nhi <|endoftext |>", "x <s> y</s>  z<mask>  <mask> w <s><s>  <s>",
           "WORD WORDS sWORD WORD1 (WORD) WORDé é WORD\u0301", " a b\n a  two\n  two Ġx e ee e.", "naivety  naivety zzzz zzzzz",
           "abbbc12bb\nab\nb", "\U000105c0\U0001e5f0\U00031350\u1c89\u0897", "\x01\x7f\u0085\u009f\u00ad", "\ue000\U000f0000\U0010ffff\ufffd\uffff",
           "-\x04-\x16- (\x13)\x14 \x1d x\U00040000y\U000bfffd", "=\x04-" * 40 + " " + "\x06" * 70, "\x04",
           "a" * 100 + "the" * 60 + "=" * 80 + " " * 70 + "x", "HTTPServer2Go camelCaseÉcole ǅungla ʰa"]
    ranges = [(0x20, 0x7e)] * 6 + [(0x80, 0x24f), (0x300, 0x36f), (0x370, 0x1fff), (0x2000, 0x2fff), (0x3000, 0xd7ff),
                                   (0xe000, 0xffff), (0x10000, 0x1ffff), (0x20000, 0x323bf), (0x1, 0x20)]
    for _ in range(60):
        out.append("".join(chr(r.randint(*r.choice(ranges))) for _ in range(r.randint(1, 24))))
    return out


def main(argv):
    b = base()
    t_list = texts()
    doc = {"base": b, "texts": t_list, "variants": []}
    for name, patch in variants(b).items():
        spec = json.dumps(dict(b, **patch))
        t = Tokenizer.from_str(spec)
        ids = [t.encode(s, add_special_tokens=False).ids for s in t_list]
        decoded = [t.decode(i, skip_special_tokens=False) for i in ids]
        plain = [t.decode(i, skip_special_tokens=True) for i in ids]
        special = [t.encode(s).ids for s in t_list]
        doc["variants"].append({
            "name": name, "patch": patch, "ids": ids, "special": None if special == ids else special,
            "decoded": [None if d == s else d for d, s in zip(decoded, t_list)],
            "plain": [None if p == d else p for p, d in zip(plain, decoded)]})
        if len(argv) == 2 and argv[0] == "--dump":
            os.makedirs(os.path.join(argv[1], name), exist_ok=True)
            with open(os.path.join(argv[1], name, "tokenizer.json"), "w") as f:
                f.write(spec)
    with open(os.path.join(HERE, "tokenizer_cases.json"), "w") as f:
        json.dump(doc, f, separators=(",", ":"), ensure_ascii=True)
        f.write("\n")


main(sys.argv[1:])
