"""C4's peer: transformers' chunked gated delta rule as it runs without a GPU.  peer_gdn.py T"""
import importlib
import sys

import torch
import transformers
from peer import forward_backward, serve

T, H, D = int(sys.argv[1]), 16, 128
rule = importlib.import_module("transformers.models.qwen3_next.modeling_qwen3_next").torch_chunk_gated_delta_rule


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def operands():
    x = [unit(torch.randn(1, T, H, D)), unit(torch.randn(1, T, H, D)), torch.randn(1, T, H, D), -0.1 * torch.rand(1, T, H),
         torch.rand(1, T, H)]
    return [t.requires_grad_(True) for t in x]


def forward(q, k, v, g, beta):
    return rule(q, k, v, g, beta, chunk_size=64)[0]


run, state = forward_backward(forward, [operands(), operands()], torch.randn(1, T, H, D))


def check():
    """The first 1024 tokens of one head against the recurrence in fp64: the peer computes the same function."""
    q, k, v, g, beta = (x.detach()[0, :1024, 5].double() for x in state["set"])
    S, worst = torch.zeros(D, D, dtype=torch.float64), 0.0
    out = state["out"][0, :1024, 5].double()
    for t in range(len(q)):
        S *= g[t].exp()
        S += beta[t] * torch.outer(k[t], v[t] - k[t] @ S)
        worst = max(worst, float((D ** -0.5 * (q[t] @ S) - out[t]).abs().max()))
    return {"o": (worst / float(out.abs().max()), 1e-4)}


serve(f"torch {torch.__version__}, transformers {transformers.__version__} torch_chunk_gated_delta_rule", run, check)
