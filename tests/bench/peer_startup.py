"""C26's peer: python, import torch and transformers, the same tiny model, one step.  peer_startup.py"""
import os
import subprocess
import sys
import time

STEP = """
import torch, transformers
import torch.nn.functional as F
m = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(hidden_size=64, intermediate_size=96, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=2048, max_position_embeddings=128,
    tie_word_embeddings=True, use_cache=False, initializer_range=0.05))
o = torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True)
x, y = torch.randint(0, 2048, (2, 48)), torch.randint(0, 2048, (96,))
loss = F.cross_entropy(m(x).logits.view(-1, 2048), y)
loss.backward()
o.step()
print(float(loss), torch.__version__, transformers.__version__, flush=True)
"""
said = ["0", "", ""]
for word in sys.stdin:
    if word == "run\n":
        t0 = time.perf_counter()
        p = subprocess.Popen([sys.executable, "-c", STEP], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        said = p.stdout.readline().split()
        print("time step", time.perf_counter() - t0, 0, 0)
        p.communicate()
        if p.returncode:
            sys.exit("the peer's step failed")
        print("name import of torch", said[1], "and transformers", said[2])
    elif word == "check\n":
        print("error loss", abs(float(said[0]) / 7.62 - 1), 0.05)
    print("done", flush=True)
