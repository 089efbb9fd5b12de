"""C25's peer: torch's fused AdamW on as many parameters, in tensors of the same sizes as SmolLM2-135M's."""
import time

import torch
from peer import serve

layer = [(576,), (576, 576), (192, 576), (192, 576), (576, 576), (576,), (1536, 576), (1536, 576), (576, 1536)]
params = [torch.randn(s, requires_grad=True) for s in [(49152, 576)] + 30 * layer + [(576,)]]
for p in params:
    p.grad = torch.rand_like(p) * 2 - 1
optimiser = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def run():
    t0 = time.perf_counter()
    optimiser.step()
    return {"step": time.perf_counter() - t0}


def check():
    """One more step of the first tensor's first row, in fp64."""
    p, s = params[0], optimiser.state[params[0]]
    w, g = p.detach()[0].double(), p.grad[0].double()
    m, v, t = s["exp_avg"][0].double(), s["exp_avg_sq"][0].double(), float(s["step"]) + 1
    m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
    want = (1 - 1e-4) * w - 1e-3 * m / (1 - 0.9 ** t) / ((v / (1 - 0.95 ** t)).sqrt() + 1e-8)
    optimiser.step()
    return {"w": (float((p.detach()[0].double() - want).abs().max()) / 1e-3, 1e-2)}


serve(f"torch {torch.__version__} AdamW(fused)", run, check)
