"""C8's peer: torch's scaled_dot_product_attention.  peer_attention.py T KV_HEADS"""
import sys

import torch
from peer import forward_backward, serve

T, G, H, D = int(sys.argv[1]), int(sys.argv[2]), 16, 128


def operands():
    return [torch.randn(1, h, T, D).requires_grad_(True) for h in (H, G, G)]


def forward(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=G < H)


run, state = forward_backward(forward, [operands(), operands()], torch.randn(1, H, T, D))


def check():
    """The last row of one head, in fp64."""
    q, k, v = (x.detach()[0, h].double() for x, h in zip(state["set"], (5, 5 * G // H, 5 * G // H)))
    want = torch.softmax(q[-1] @ k.T * D ** -0.5, -1) @ v
    return {"o": (float((want - state["out"][0, 5, -1]).abs().max() / want.abs().max()), 1e-4)}


serve(f"torch {torch.__version__} scaled_dot_product_attention", run, check)
