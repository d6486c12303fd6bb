"""One LoRA loop of PyTorch + PEFT on the CPU, a step for each request on standard input. The only argument is the case as JSON.

As its users run it: bf16 is autocast over bf16 weights, QLoRA loads the model by bitsandbytes and prepares it by PEFT, the loss is the
model's own, AdamW is torch's, real data is padded to the longest sequence of its batch.
"""
import contextlib
import json
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

run = json.loads(sys.argv[1])
torch.set_num_threads(run["threads"])
torch.manual_seed(0)
bf16 = run["dtype"] == "bf16"
dtype = torch.bfloat16 if bf16 else torch.float32
config = LlamaConfig(use_cache=False, **{k: v for k, v in run["config"].items() if k not in ("model_type", "architectures")})
if run.get("method") == "qlora":
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = LlamaForCausalLM.from_pretrained(run["folder"], quantization_config=quantization, dtype=dtype, use_cache=False)
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
else:
    model = LlamaForCausalLM(config).to(dtype)
if run.get("checkpointing"):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
rank = run.get("rank", 16)
adapter = LoraConfig(
    r=rank, lora_alpha=2 * rank, lora_dropout=run.get("dropout", 0), target_modules="all-linear", task_type="CAUSAL_LM"
)
model = get_peft_model(model, adapter)
model.train()
if run.get("compile"):
    model = torch.compile(model)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def padded(sequences):
    longest = max(len(s["input_ids"]) for s in sequences)
    rows = {"input_ids": [], "labels": [], "attention_mask": []}
    for s in sequences:
        gap = longest - len(s["input_ids"])
        rows["input_ids"].append(s["input_ids"] + [0] * gap)
        rows["labels"].append(s["labels"] + [-100] * gap)
        rows["attention_mask"].append([1] * len(s["input_ids"]) + [0] * gap)
    return {key: torch.tensor(value) for key, value in rows.items()}


if run.get("data"):
    with open(run["data"]) as file:
        batches = [padded(sequences) for sequences in json.load(file)]
else:
    ids = torch.randint(0, config.vocab_size, (run["batch"], run["length"]))
    labels = ids.clone()
    labels[:, : int(run["length"] * (1 - run.get("supervised", 1)))] = -100
    batches = [{"input_ids": ids, "labels": labels}]

for line in sys.stdin:
    request = json.loads(line)
    if "step" not in request:
        answer = {"peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    else:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = model(**batches[request["step"] % len(batches)]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        answer = {"seconds": time.perf_counter() - start, "loss": float(loss.detach())}
    print(json.dumps(answer), flush=True)
