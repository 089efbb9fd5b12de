"""C5's peer: transformers' Mamba2Mixer as it runs without a GPU, with a B and a C for every head.  peer_mamba2.py T"""
import importlib
import sys
import time

import torch
import transformers
from peer import serve

T, HIDDEN, H, D = int(sys.argv[1]), 1024, 16, 128
modeling = importlib.import_module("transformers.models.mamba2.modeling_mamba2")
mixer = modeling.Mamba2Mixer(transformers.Mamba2Config(hidden_size=HIDDEN, num_heads=H, head_dim=D, state_size=D, n_groups=H, expand=2,
                                                       chunk_size=256, num_hidden_layers=1), 0)
forward = getattr(mixer, "torch_forward", mixer)  # newer versions choose by themselves
sets = [torch.randn(1, T, HIDDEN, requires_grad=True) for _ in range(2)]
weight = torch.randn(1, T, HIDDEN)
state = {"turn": 0}


def run():
    x = sets[state["turn"] % 2]
    state["turn"] += 1
    x.grad = None
    mixer.zero_grad(set_to_none=True)
    t0 = time.perf_counter()
    out = forward(x)
    t1 = time.perf_counter()
    out.backward(weight)
    t2 = time.perf_counter()
    return {"fwd": t1 - t0, "fwd+bwd": t2 - t0}


def check():
    """The first tokens do not depend on the others: it is the causal function we think it is."""
    with torch.no_grad():
        x = sets[0][:, :T // 2]
        whole, part = forward(sets[0])[:, :T // 2], forward(x)
    return {"causal": (float((whole - part).abs().max() / part.abs().max()), 1e-4)}


serve(f"torch {torch.__version__}, transformers {transformers.__version__} Mamba2Mixer", run, check)
