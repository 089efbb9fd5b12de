"""ROW
id: C26
title: start-up: from exec to the end of the first optimiser step, a tiny model
unit: ms
ceiling: own
case: graft-extend | | threads=1
peer: peer_startup.py
bar: * | peer | 20 | 100
"""
# The ceiling is a program that starts MPI and ends: nothing that uses MPI is there sooner. The step of ours is a real
# run: configuration, lock, checksums of the data, metrics; the peer only imports, builds the model and steps.
import glob
import json
import os
import subprocess
import sys
import time

BUILD, DIR = os.environ["GR_BUILD"], os.environ["GR_BENCH_DIR"]
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONFIG = {"model_type": "qwen3", "vocab_size": 2048, "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
          "rms_norm_eps": 1e-6, "rope_theta": 10000, "hidden_act": "silu", "tie_word_embeddings": True,
          "initializer_range": 0.05}
turn = 0


def call(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]}: exit {done.returncode}: {done.stderr[-300:]}")


def prepare():
    with open(f"{DIR}/tiny.json", "w") as f:
        json.dump(CONFIG, f)
    call([f"{BUILD}/bin/graft-tokenize", f"run.out={DIR}/shards", f"tokenize.inputs={TOP}/LICENSE", "tokenize.document=paragraph",
          f"tokenize.tokenizer={TOP}/configs/demo/tokenizer.json"])


def metrics(out):
    """The lines of training steps that are there."""
    found = glob.glob(f"{out}/metrics.jsonl")
    return [json.loads(x) for x in open(found[0]).read().splitlines() if '"step"' in x and x.endswith("}")] if found else []


def run():
    """Seconds until the line of the first step can be read."""
    global turn
    turn += 1
    out = f"{DIR}/start-{turn}"
    t0 = time.perf_counter()
    p = subprocess.Popen([f"{BUILD}/bin/graft-extend", f"run.out={out}", f"start.config={DIR}/tiny.json",
                          f"start.tokenizer={TOP}/configs/demo/tokenizer.json", f"data.shards={DIR}/shards", "data.context=48",
                          "data.micro_batch=2", "train.batch=2", "train.steps=1", "train.log_every=1"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not metrics(out):
        if p.poll() is not None and not metrics(out):
            sys.exit(f"graft-extend: exit {p.returncode} without a step")
        time.sleep(0.001)
    seconds = time.perf_counter() - t0
    p.wait()
    return seconds, metrics(out)[0]["loss"]


def ceiling():
    t0 = time.perf_counter()
    call([f"{BUILD}/tests/bench/probe", "mpi"])
    return time.perf_counter() - t0


prepare()
print("name graft-extend, one rank without mpirun")
last = 0.0
for word in sys.stdin:
    if word == "run\n":
        seconds, last = run()
        print("time step", seconds, 0, 0)
    elif word == "ceiling\n":
        print("time step", ceiling(), 0, 0)
    elif word == "check\n":  # a random model's first loss is near log 2048 = 7.6
        print("error loss", abs(last / 7.62 - 1), 0.05)
    print("done", flush=True)
