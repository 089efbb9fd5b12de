#!/usr/bin/env python3
"""Records what transformers computes for tiny random models: tests/golden/models/<case>/.

    python3 -m venv V && V/bin/pip install torch transformers safetensors && V/bin/python tests/golden/make_model_cases.py

Per case: config.json and model.safetensors as save_pretrained writes them, ids.json (two sequences), and expected.json with the
float32 logits of some positions and the mean next-token loss. Run by maintainers when a family is added; tests need no Python.
"""
import json
import os

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
              max_position_embeddings=64, initializer_range=0.2)
CASES = {
    "qwen3_tied": (Qwen3Config, Qwen3ForCausalLM, dict(num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
                                                      rms_norm_eps=1e-6, rope_theta=1e6), torch.float32),
    "llama_untied": (LlamaConfig, LlamaForCausalLM, dict(num_key_value_heads=4, tie_word_embeddings=False,
                                                         rms_norm_eps=1e-5, rope_theta=5e5), torch.float32),
    "llama_bf16": (LlamaConfig, LlamaForCausalLM, dict(num_key_value_heads=1, tie_word_embeddings=True,
                                                       rms_norm_eps=1e-5, rope_theta=1e4), torch.bfloat16),
    "qwen3_f16": (Qwen3Config, Qwen3ForCausalLM, dict(num_key_value_heads=4, head_dim=8, tie_word_embeddings=False,
                                                      rms_norm_eps=1e-6, rope_theta=1e4), torch.float16),
}

for number, (name, (config_type, model_type, extra, dtype)) in enumerate(CASES.items()):
    torch.manual_seed(number)
    model = model_type(config_type(**COMMON, **extra))
    for p_name, p in model.named_parameters():
        if "norm" in p_name:
            p.data.uniform_(0.5, 1.5)
    case = os.path.join(HERE, name)
    # two files and an index for one of the cases
    model.to(dtype).save_pretrained(case, max_shard_size="40KB" if name == "llama_untied" else "5GB")
    # the stored weights, computed with in float32; casting back would leave the rotary frequencies rounded to 16 bits
    model = model_type.from_pretrained(case, dtype=torch.float32).eval()
    ids = torch.randint(0, COMMON["vocab_size"], (2, 37))
    with torch.no_grad():
        out = model(ids, labels=ids)
    where = [0, 1, 17, 36]
    for extra_file in ("generation_config.json", "chat_template.jinja"):
        if os.path.exists(os.path.join(case, extra_file)):
            os.remove(os.path.join(case, extra_file))
    with open(os.path.join(case, "ids.json"), "w") as f:
        json.dump(ids.tolist(), f)
    with open(os.path.join(case, "expected.json"), "w") as f:
        json.dump({"positions": where, "loss": float(out.loss),
                   "logits": [[[round(float(x), 6) for x in out.logits[b, t]] for t in where] for b in range(2)]}, f)
    print(name, float(out.loss), float(out.logits.abs().max()))
