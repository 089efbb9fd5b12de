#!/usr/bin/env python3
"""Write data_pipeline/unicode_table.h: Unicode as HuggingFace tokenizers sees it.

    pip install tokenizers && python3 scripts/make_unicode_table.py > data_pipeline/unicode_table.h

Token ids depend on which code points are letters, digits, spaces and combining marks, and every library follows its
own edition of Unicode. So the table is asked of the reference itself, code point by code point: general categories
through its Split pre-tokenizer (Oniguruma), and through its NFC normalizer the code points that NFC may touch.
Run by maintainers when the reference moves; nothing at run time needs Python.
"""
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

GC = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def members(pattern):
    """Code points that match: the pieces Split(removed) does not return."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = set()
    for i in range(0, len(SCALARS), 4096):
        block = SCALARS[i:i + 4096]
        kept = {ch for piece, _ in split.pre_tokenize_str("".join(map(chr, block))) for ch in piece}
        found.update(c for c in block if chr(c) not in kept)
    return found


def categories():
    gc = [GC.index("Cs")] * 0x110000
    todo = set(SCALARS)
    for i, name in enumerate(GC):
        if name in ("Cs", "Cn"):
            continue
        for c in members(r"\p{%s}" % name):
            gc[c] = i
            todo.discard(c)
    for c in todo:
        gc[c] = GC.index("Cn")
    return gc


def nfc_active():
    """Code points that NFC may change, reorder, or join to what stands before them."""
    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    active = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))  # Hangul vowels and finals join algorithmically
    for c in SCALARS:
        s = chr(c)
        if nfc(s) != s:
            active.add(c)
        probes = ("a\u0345" + s, "a" + s + "\u0334")  # combining classes 240 and 1: reordered unless class 0
        if any(nfc(p) != p for p in probes):
            active.add(c)
        parts = nfd(s)
        if parts != s and nfc(parts) == s:
            active.add(ord(parts[-1]))
    return active


def numeric():
    """char::is_numeric of Rust, which the Digits pre-tokenizer asks; a newer Unicode than Oniguruma's."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {c for c in SCALARS if len(digits.pre_tokenize_str("a" + chr(c) + "a")) == 3}


def runs(flags):
    out, on = [], False
    for c in range(0x110001):
        now = c in flags
        if now != on:
            out.append(c)
            on = now
    return out


def emit(name, comment, values):
    print("\n/* %s */" % comment)
    print("static const uint32_t %s[] = {" % name)
    for i in range(0, len(values), 11):
        print("    " + " ".join("0x%x," % v for v in values[i:i + 11]))
    print("};")


gc = categories()
starts = [c << 5 | gc[c] for c in range(0x110000) if c == 0 or gc[c] != gc[c - 1]]
print("/* Made by scripts/make_unicode_table.py with tokenizers %s; do not edit. */" % tokenizers.__version__)
print("#ifndef GR_DATA_PIPELINE_UNICODE_TABLE_H\n#define GR_DATA_PIPELINE_UNICODE_TABLE_H\n#include <stdint.h>")
emit("category_run", "First code point << 5 | general category (index into gr_gc), one entry per run.", starts)
emit("space_edge", "White_Space: code points where membership changes, beginning with the first member.",
     runs(members(r"\s")))
emit("numeric_edge", "What the Digits pre-tokenizer calls a digit; edges as above.", runs(numeric()))
emit("nfc_edge", "Code points that NFC may change, reorder or join to what precedes; edges as above.",
     runs(nfc_active()))
print("\n#endif")
