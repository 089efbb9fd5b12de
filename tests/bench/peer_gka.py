"""C6's peer: Gated KalmaNet in chunks with torch's batched products, all chunks and heads at once, autograd through the iteration.  peer_gka.py T"""
import sys

import torch
from peer import forward_backward, serve

T, H, D, C, ITERATIONS, RIDGE = int(sys.argv[1]), 16, 128, 64, 30, 0.02
LATER = torch.ones(C, C, dtype=torch.bool).triu(1)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def operands():
    x = [unit(torch.randn(1, T, H, D)), unit(torch.randn(1, T, H, D)), torch.randn(1, T, H, D), -0.1 * torch.rand(1, T, H),
         0.1 + 0.8 * torch.rand(1, T, H), 0.1 + 0.8 * torch.rand(1, T, H)]
    return [t.requires_grad_(True) for t in x]


def before_chunks(kept, written):
    """The state before each chunk, from what each chunk keeps of it and writes into it."""
    states = [torch.zeros_like(written[:, 0])]
    for c in range(written.shape[1] - 1):
        states.append(kept[:, c, None, None] * states[-1] + written[:, c])
    return torch.stack(states, 1)


def solve(H_in, k, P, e, F, q):
    r, omega = 1 / (1 + 2 * RIDGE), 2.0
    eta = 2 * r / F[..., None]
    b = eta * q
    x, before = b, torch.zeros_like(b)
    for _ in range(ITERATIONS):
        omega = 1 / (1 - r * r / 4 * omega)
        Hx = e[..., None] * (x @ H_in) + ((x @ k.mT) * P) @ k
        x, before = omega * (r * x - eta * Hx + b) + (1 - omega) * before, x
    return x


def forward(q, k, v, g, beta, alpha):
    q, k, v = (x.view(T // C, C, H, D).permute(2, 0, 1, 3) for x in (q, k, v))
    g, beta, alpha = (x.view(T // C, C, H).permute(2, 0, 1) for x in (g, beta, alpha))
    k, v = (beta[..., None] + 1e-6) * k, (beta[..., None] + 1e-6) * v
    G = g.cumsum(-1)
    P = (G[..., :, None] - G[..., None, :]).masked_fill(LATER, -torch.inf).exp()
    e, last = G.exp(), ((G[..., -1:] - G).exp()[..., None] * k).mT
    kept = e[..., -1]
    H_in, S_in = before_chunks(kept, last @ k), before_chunks(kept, last @ v)
    h = (k * (k @ H_in)).sum(-1, keepdim=True)
    F = (e * e * (H_in * H_in).sum((-1, -2))[..., None] + 2 * e * (P @ h)[..., 0] + ((P @ (k @ k.mT) ** 2) * P).sum(-1)).sqrt()
    q = q + alpha[..., None] * (solve(H_in, k, P, e, F, q) - q)
    o = D ** -0.5 * (e[..., None] * (q @ S_in) + ((q @ k.mT) * P) @ v)
    return o.permute(1, 2, 0, 3).reshape(1, T, H, D)


run, state = forward_backward(forward, [operands(), operands()], torch.randn(1, T, H, D))


def check():
    """The first 256 tokens of one head against dense solves in fp64, up to the error of the iteration."""
    q, k, v, g, beta, alpha = (x.detach()[0, :256, 5].double() for x in state["set"])
    H_t, S, worst = torch.zeros(D, D, dtype=torch.float64), torch.zeros(D, D, dtype=torch.float64), 0.0
    out = state["out"][0, :256, 5].double()
    k, v = (beta[:, None] + 1e-6) * k, (beta[:, None] + 1e-6) * v
    for t in range(len(q)):
        H_t, S = g[t].exp() * H_t + torch.outer(k[t], k[t]), g[t].exp() * S + torch.outer(k[t], v[t])
        x = torch.linalg.solve(H_t + RIDGE * H_t.norm() * torch.eye(D, dtype=torch.float64), q[t])
        worst = max(worst, float((D ** -0.5 * ((q[t] + alpha[t] * (x - q[t])) @ S) - out[t]).abs().max()))
    return {"o": (worst / float(out.abs().max()), 1e-3)}


serve(f"torch {torch.__version__}, chunks", run, check)
