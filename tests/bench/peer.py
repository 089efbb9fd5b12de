"""What the peers share: the same words as tests/bench/bench.h, over torch on the CPU."""
import os
import sys
import time

import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
torch.manual_seed(int(os.environ.get("GR_BENCH_SEED", "1")))


def serve(name, run, check):
    """run() -> {key: seconds}; check() -> {key: (error, tolerance)}."""
    print("name", name)
    for word in sys.stdin:
        if word == "run\n":
            for key, seconds in run().items():
                print("time", key, seconds, 0, 0)
        elif word == "check\n":
            for key, (error, tolerance) in check().items():
                print("error", key, error, tolerance)
        print("done", flush=True)


def forward_backward(forward, sets, weight):
    """A repetition: forward, then backward of <weight, output>, on the sets of leaves in turn; keeps the last output."""
    state = {"turn": 0, "out": None, "set": None}

    def run():
        s = state["set"] = sets[state["turn"] % len(sets)]
        state["turn"] += 1
        state["out"] = None
        for x in s:
            x.grad = None
        t0 = time.perf_counter()
        out = forward(*s)
        t1 = time.perf_counter()
        out.backward(weight)
        t2 = time.perf_counter()
        state["out"] = out.detach()
        return {"fwd": t1 - t0, "fwd+bwd": t2 - t0}

    return run, state
