#!/usr/bin/env python3
"""Records the logits of a hybrid: tests/golden/hybrid.json.

    V/bin/python tests/golden/make_hybrid_case.py build/bin        (V as in make_model_cases.py; safetensors and torch are used)

Graft converts the recorded qwen3_tied into a hybrid and exports it; here the exported files are read and computed with in float64, token by token,
from hybrid-model-factory's description of its layer (docs/math.md 2.2), sharing no code with Graft. Run by maintainers; tests need no Python.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
CASE = os.path.join(HERE, "models", "qwen3_tied")
torch.set_default_dtype(torch.float64)


def rms(x, w, eps):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * w


def rope(x, theta):  # x [T, H, D]
    t, _, d = x.shape
    angle = torch.arange(t)[:, None] * theta ** (-torch.arange(0, d, 2) / d)[None, :]
    c, s = torch.cos(angle)[:, None, :], torch.sin(angle)[:, None, :]
    a, b = x[..., : d // 2], x[..., d // 2:]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def attention(w, x, cfg):
    t, d = x.shape[0], cfg["head_dim"]
    h, g = cfg["num_attention_heads"], cfg["num_key_value_heads"]
    q = rope(rms((x @ w["q_proj.weight"].T).view(t, h, d), w["q_norm.weight"], cfg["rms_norm_eps"]), cfg["theta"])
    k = rope(rms((x @ w["k_proj.weight"].T).view(t, g, d), w["k_norm.weight"], cfg["rms_norm_eps"]), cfg["theta"])
    v = (x @ w["v_proj.weight"].T).view(t, g, d)
    k, v = k.repeat_interleave(h // g, 1), v.repeat_interleave(h // g, 1)
    s = torch.einsum("ihd,jhd->hij", q, k) * d ** -0.5
    s = s.masked_fill(torch.triu(torch.ones(t, t, dtype=torch.bool), 1), -torch.inf)
    return torch.einsum("hij,jhd->ihd", s.softmax(-1), v).reshape(t, h * d) @ w["o_proj.weight"].T


def conv_silu(x, w):  # x [T, C], w [C, 1, W]: the last tap multiplies the token itself
    width = w.shape[-1]
    padded = torch.cat([torch.zeros(width - 1, x.shape[1]), x])
    y = sum(padded[j: j + x.shape[0]] * w[:, 0, j] for j in range(width))
    return torch.nn.functional.silu(y)


def gated_delta_net(w, x, cfg):
    t, d = x.shape[0], cfg["head_dim"]
    h, g = cfg["num_attention_heads"], cfg["num_key_value_heads"]
    q, k, v = (conv_silu(x @ w[n + "_proj.weight"].T, w[n + "_conv1d.weight"]).view(t, -1, d) for n in "qkv")
    q, k = (u * torch.rsqrt((u * u).sum(-1, keepdim=True) + 1e-6) for u in (q, k))
    k, v = k.repeat_interleave(h // g, 1), v.repeat_interleave(h // g, 1)
    beta = torch.sigmoid(x @ w["b_proj.weight"].T)
    decay = -torch.exp(w["A_log"]) * torch.nn.functional.softplus(x @ w["gk_proj.weight"].T + w["dt_bias"])
    state, out = torch.zeros(h, d, d), []
    for i in range(t):
        state = state * torch.exp(decay[i])[:, None, None]
        error = v[i] - torch.einsum("hk,hkv->hv", k[i], state)
        state = state + torch.einsum("hk,hv->hkv", k[i], beta[i][:, None] * error)
        out.append(torch.einsum("hk,hkv->hv", q[i] * d ** -0.5, state))
    o = rms(torch.stack(out), w["o_norm.weight"], 1e-5) * torch.nn.functional.silu((x @ w["g_proj.weight"].T).view(t, h, d))
    return o.reshape(t, h * d) @ w["o_proj.weight"].T


def logits(w, cfg, ids):
    x = w["model.embed_tokens.weight"][ids]
    for i in range(cfg["num_hidden_layers"]):
        p = f"model.layers.{i}."
        part = lambda name: {k[len(p + name) + 1:]: v for k, v in w.items() if k.startswith(p + name + ".")}
        n = rms(x, w[p + "input_layernorm.weight"], cfg["rms_norm_eps"])
        x = x + (gated_delta_net(part("gdn"), n, cfg) if part("gdn") else attention(part("self_attn"), n, cfg))
        n, m = rms(x, w[p + "post_attention_layernorm.weight"], cfg["rms_norm_eps"]), part("mlp")
        x = x + (torch.nn.functional.silu(n @ m["gate_proj.weight"].T) * (n @ m["up_proj.weight"].T)) @ m["down_proj.weight"].T
    return rms(x, w["model.norm.weight"], cfg["rms_norm_eps"]) @ w["model.embed_tokens.weight"].T


with tempfile.TemporaryDirectory() as tmp:
    def graft(program, *arguments):
        subprocess.run([os.path.join(sys.argv[1], "graft-" + program), *arguments], check=True)

    graft("import", f"run.out={tmp}/t.h5", f"import.model={CASE}")
    graft("convert", f"run.out={tmp}/h.h5", f"model.weights={tmp}/t.h5", "convert.pattern=(gdn,attn)", "convert.conv_init=normal")
    graft("export", f"run.out={tmp}/hf", f"model.weights={tmp}/h.h5", "export.dtype=f32")
    config = json.load(open(f"{tmp}/hf/config.json"))
    assert config["model_type"] == "hybrid_qwen3" and config["hybrid_override_pattern"] == "GDN-*-GDN", config
    config["theta"] = config["rope_parameters"]["rope_theta"]
    weights = {k: v.double() for k, v in load_file(f"{tmp}/hf/model.safetensors").items()}
ids = json.load(open(os.path.join(CASE, "ids.json")))
where = [0, 1, 17, 36]
all_logits = [logits(weights, config, torch.tensor(row)) for row in ids]
with open(os.path.join(HERE, "hybrid.json"), "w") as f:
    json.dump({"positions": where, "logits": [[[round(float(v), 6) for v in z[t]] for t in where] for z in all_logits]}, f)
print("largest logit", max(float(z.abs().max()) for z in all_logits))
