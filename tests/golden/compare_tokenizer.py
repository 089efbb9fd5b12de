#!/usr/bin/env python3
"""Compare graft-tokenize --encode with HuggingFace tokenizers on random and real text; for maintainers, not for `make test`.

    pip install tokenizers && python3 tests/golden/compare_tokenizer.py PROGRAM TOKENIZER.json [CASES [SEED [TEXT...]]]

All planes of Unicode, every code point in two contexts, marks, Hangul, emoji, white space of all kinds, added tokens and pieces of
them, long runs, and slices of the TEXT files (default: this directory and /usr/share/doc). Every id must be equal.
"""
import glob
import json
import os
import random
import subprocess
import sys
import unicodedata

from tokenizers import Tokenizer

WORDS = ("the of and don't I'LL we've they're THE 's 'S 'ſ 'ſt 'Re 'rE 'vE 'Ll 'd 'D 'm 'M 't x'y naïve façade ﬁ ﬀ Straße İstanbul ı "
         "\u212a \u212b \u2126 ≠ 1 12 123 1234 12345 3.14159 1,000,000 ½ Ⅷ ² ① ０１ ٣٤٥ ೧೨ 你好世界 中文，测试。 日本語テスト ひらがな カタカナ "
         "한국어 \u1100\u1161\u11a8 हिन्दी क्षत्रिय தமிழ் ไทย ภาษา עברית العربيّة 😀 👨‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ e\u0301 n\u0303 a\u0302\u0323 a\u0323\u0302 "
         "q\u0323\u0307 q\u0307\u0323 \r\n \n\n \n \r \t\t = == != -> /* */ // # #include <stdio.h> def f(x): return {} [] () ;; ''' "
         "`` __init__ camelCase snake_case a.b/c?d=e&f=g $1 €5 %20 \\n \x00 \x01 \x7f \ufffc \U0010ffff").split(" ")
SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 32, 0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x2003, 0x200A, 0x2028, 0x2029, 0x202F,
                           0x205F, 0x3000, 0x200B, 0xFEFF, 0x200D, 0x200C)]
MARKS = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c))[0] == "M"]
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
RANGES = [(0x20, 0x7E), (0x80, 0x2FF), (0x370, 0x1FFF), (0x2000, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF), (0x20000, 0x323BF),
          (0x10000, 0x10FFFF)]


def make_cases(rnd, added, texts, n):
    def point(lo, hi):
        return chr(rnd.choice([c for c in (rnd.randint(lo, hi) for _ in range(4)) if not 0xD800 <= c <= 0xDFFF] or [0x41]))

    def atom():
        kind = rnd.random()
        if kind < .30:
            return rnd.choice(WORDS) + rnd.choice(["", " "])
        if kind < .45:
            return rnd.choice(SPACES) * rnd.choice([1, 1, 1, 2, 3, 8])
        if kind < .55:
            return rnd.choice(MARKS)
        if kind < .58:
            return point(0xAC00, 0xD7A3) + point(0x1100, 0x11FF)
        if kind < .92 or not added:
            return point(*rnd.choice(RANGES))
        token = rnd.choice(added)
        return token if rnd.random() < .5 else token[:rnd.randint(0, len(token))]

    def case():
        kind = rnd.random()
        if kind < .01:
            return ""
        if kind < .25 and texts:
            text = rnd.choice(texts)
            at = rnd.randrange(max(1, len(text)))
            return text[at:at + rnd.choice([10, 50, 200, 1000])]
        if kind < .32:
            return rnd.choice(WORDS)[:1] * rnd.choice([40, 300, 2000]) + atom()
        if kind < .38:
            return "".join(rnd.choice("abcdefghij") for _ in range(rnd.choice([33, 70, 500])))
        return "".join(atom() for _ in range(rnd.randint(1, 40)))

    cases = [case() for _ in range(n)]
    for k in range(0, len(SCALARS), 512):
        cases.append("".join("a1 "[i % 3] + chr(c) for i, c in enumerate(SCALARS[k:k + 512])))
        cases.append("".join(chr(c) + "\u0323e" for c in SCALARS[k:k + 512]))
    return cases


def main(program, path, n=12000, seed=1, *files):
    reference = Tokenizer.from_file(path)
    with open(path, encoding="utf-8") as f:
        added = [t["content"] for t in json.load(f)["added_tokens"]][:60]
    texts = []
    here = os.path.dirname(os.path.abspath(__file__))
    for name in files or glob.glob(here + "/*.py") + glob.glob("/usr/share/doc/*/*")[:500]:
        try:
            with open(name, encoding="utf-8", newline="") as f:
                texts.append(f.read())
        except (OSError, UnicodeDecodeError):
            pass
    cases = make_cases(random.Random(int(seed)), added, texts, int(n))
    lines = "".join(json.dumps({"text": c}, ensure_ascii=False) + "\n" for c in cases)
    run = subprocess.run([program, "--encode", path], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    ours = [json.loads(line)["ids"] for line in run.stdout.splitlines()]
    theirs = [reference.encode(c, add_special_tokens=False).ids for c in cases]
    bad = [i for i in range(len(cases)) if ours[i] != theirs[i]]
    for i in bad[:5]:
        print("DIFFERENT: %s\n  ours   %s\n  theirs %s" % (ascii(cases[i])[:200], ours[i][:20], theirs[i][:20]))
    print("%s: %d texts, %d ids, %d texts differ" % (path, len(cases), sum(map(len, theirs)), len(bad)))
    return 1 if bad or len(ours) != len(cases) else 0


if len(sys.argv) < 3:
    sys.exit(__doc__)
sys.exit(main(*sys.argv[1:]))
