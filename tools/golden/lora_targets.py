"""Which modules PEFT wraps, with which rank and scale, for many configurations of a small Llama; and transformers' schedules.

Writes test/golden/lora_targets.json and test/golden/schedules.json. Needs the packages of requirements.txt.
"""
import json
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

OUT = pathlib.Path(__file__).parents[2] / "test" / "golden"

CONFIGS = {
    "default": {},
    "all-linear": {"target_modules": "all-linear"},
    "list": {"target_modules": ["q_proj", "down_proj"]},
    "full path": {"target_modules": ["model.layers.1.mlp.up_proj", "k_proj"]},
    "ending with a dot": {"target_modules": ["mlp.up_proj"]},
    "regular expression": {"target_modules": r".*\.[02]\..*(q|v)_proj"},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"], "rank_pattern": {"embed_tokens": 3}, "use_rslora": True},
    "exclude list": {"target_modules": "all-linear", "exclude_modules": ["gate_proj", "o_proj"]},
    "exclude expression": {"target_modules": "all-linear", "exclude_modules": r".*layers\.1\..*"},
    "rank pattern": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, r"layers\.1\..*\.up_proj": 6},
        "alpha_pattern": {"q_proj": 32, "mlp.down_proj": 4},
    },
    "anchored pattern": {"target_modules": "all-linear", "rank_pattern": {"^model.layers.0.self_attn.q_proj": 3}},
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"v_proj": 9}},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "modules to save": {"target_modules": "all-linear", "modules_to_save": ["lm_head", "norm"]},
    "saved projection": {"target_modules": "all-linear", "modules_to_save": ["v_proj"]},
    "bias all": {"target_modules": ["q_proj"], "bias": "all"},
    "bias lora_only": {"target_modules": ["q_proj", "up_proj"], "bias": "lora_only", "modules_to_save": ["norm"]},
}


def targets():
    cases = []
    for name, fields in CONFIGS.items():
        config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                             vocab_size=64, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
        model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM", **fields))
        layers = {}
        for path, module in model.base_model.model.named_modules():
            if "default" in {**getattr(module, "lora_A", {}), **getattr(module, "lora_embedding_A", {})}:
                layers[path] = [module.r["default"], module.scaling["default"]]
        saved = {n: list(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        saved = {n.replace(".modules_to_save.default", "").replace(".default", ""): s for n, s in saved.items()}
        trainable, everything = model.get_nb_trainable_parameters()
        cases.append({"name": name, "config": fields, "layers": layers, "parameters": saved, "trainable": trainable, "all": everything})
    (OUT / "lora_targets.json").write_text(json.dumps(cases, indent=1) + "\n")


def schedules():
    cases = []
    for kind, warmup, total, lowest in [("constant", 0, 10, None), ("constant_with_warmup", 3, 10, None), ("linear", 0, 10, None),
                                        ("linear", 4, 20, None), ("cosine", 0, 12, None), ("cosine", 5, 20, None), ("cosine", 2, 20, 0.1)]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
        if lowest is None:
            scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
        else:
            scheduler = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, total, min_lr_rate=lowest)
        rates = []
        for _ in range(total):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        cases.append({"lr_scheduler": kind, "warmup_steps": warmup, "total_steps": total, "cosine_min_lr_ratio": lowest, "rates": rates})
    (OUT / "schedules.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    targets()
    schedules()
