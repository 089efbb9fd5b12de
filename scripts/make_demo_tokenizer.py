#!/usr/bin/env python3
"""Train the demo tokenizer: byte-level BPE, 2048 ids, in the form of Qwen 2 and 3.

    pip install tokenizers && python3 scripts/make_demo_tokenizer.py TEXT... > configs/demo/tokenizer.json

TEXT are files of English prose, UTF-8. Run by maintainers when the demo corpus changes; the demo itself needs no Python. The
result depends on the texts and on nothing else (the trainer breaks ties by token order).
"""
import sys

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCABULARY = 2048
SPECIAL = ["<|endoftext|>"]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def main(paths):
    if not paths:
        sys.exit(__doc__)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(**byte_level),
    ])
    tokenizer.decoder = decoders.ByteLevel(**byte_level)
    tokenizer.post_processor = processors.ByteLevel(**byte_level)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),  # the specials follow the trained ids, as in Qwen
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train(paths, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    assert tokenizer.get_vocab_size(with_added_tokens=True) == VOCABULARY
    print(tokenizer.to_str(pretty=True))


main(sys.argv[1:])
