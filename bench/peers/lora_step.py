"""The peer of lora-step.ts: the same loop in PyTorch + PEFT on the CPU, printed as the same JSON line.

Run as its users run it: bf16 is autocast over bf16 weights, the loss is the model's own, AdamW is torch's.
"""
import argparse
import contextlib
import json
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "smol135": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                    vocab_size=49152, rope_theta=100000.0, tie_word_embeddings=True),
    "tiny1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4,
                   vocab_size=32000, tie_word_embeddings=False),
}

parser = argparse.ArgumentParser()
parser.add_argument("--shape", choices=SHAPES, default="smol135")
parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--length", type=int, default=512)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--supervised", type=float, default=1.0)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--checkpointing", action="store_true")
parser.add_argument("--compile", action="store_true")
a = parser.parse_args()

torch.set_num_threads(a.threads)
torch.manual_seed(0)
config = LlamaConfig(max_position_embeddings=8192, use_cache=False, **SHAPES[a.shape])
model = LlamaForCausalLM(config).to(torch.bfloat16 if a.dtype == "bf16" else torch.float32)
if a.checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
model.train()
if a.compile:
    model = torch.compile(model)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
ids = torch.randint(0, config.vocab_size, (a.batch, a.length))
labels = ids.clone()
labels[:, : int(a.length * (1 - a.supervised))] = -100
seconds = []
for _ in range(a.steps):
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16) if a.dtype == "bf16" else contextlib.nullcontext():
        loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - start)
step = statistics.median(seconds[1:])
print(json.dumps({"step_s": step, "tokens_per_s": a.batch * a.length / step, "loss": float(loss.detach()),
                  "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}))
