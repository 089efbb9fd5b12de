"""C9's peer: transformers' models with SDPA and torch's fused AdamW.  peer_llama.py SHAPE T"""
import sys
import time

import torch
import torch.nn.functional as F
import transformers
from peer import serve
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

common = dict(tie_word_embeddings=True, attn_implementation="sdpa", use_cache=False)
shapes = {
    "smollm2": (LlamaForCausalLM, LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, max_position_embeddings=8192, rms_norm_eps=1e-5, **common)),
    "qwen3-0.6b-4l": (Qwen3ForCausalLM, Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, vocab_size=32768, max_position_embeddings=40960, **common)),
    "qwen3-8b-1l": (Qwen3ForCausalLM, Qwen3Config(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=1, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, vocab_size=1024, max_position_embeddings=40960, **common)),
}
kind, config = shapes[sys.argv[1]]
T, V = int(sys.argv[2]), config.vocab_size
model = kind(config).to(torch.float32)
model.train()
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-7, fused=True)  # it should not learn the three texts by heart
texts = [(torch.randint(0, V, (1, T)), torch.randint(0, V, (T,))) for _ in range(3)]
state = {"turn": 0, "loss": 0.0}


def run():
    x, y = texts[state["turn"] % 3]
    state["turn"] += 1
    t0 = time.perf_counter()
    loss = F.cross_entropy(model(x).logits.view(-1, V), y)
    loss.backward()
    t1 = time.perf_counter()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    t2 = time.perf_counter()
    state["loss"] = float(loss)
    return {"step": t2 - t0, "fwd+bwd": t1 - t0}


def check():
    """A random model knows nothing: its loss is near log V."""
    guess = float(torch.log(torch.tensor(float(V))))
    return {"loss": (abs(state["loss"] / guess - 1), 0.5)}


serve(f"torch {torch.__version__}, transformers {transformers.__version__}", run, check)
