"""Logits, losses, gradients and training curves of small random models, from transformers and PEFT in fp32.

usage: models.py [NAME …]; without names all of them.

Writes test/golden/models/<name>/: config.json and model.safetensors (the base), adapter/ (as PEFT saves it), golden.safetensors
(`ids.<i>`, `labels.<i>`, `logits.<i>`, `adapted.<i>` of each example, `gradient.<parameter>`) and golden.json (loss, 20-step curve).
Examples run one by one, so that nothing is padded; the loss is the sum over all supervised tokens divided by their number.
"""

import json
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, get_scheduler

OUT = pathlib.Path(__file__).parents[2] / "test" / "golden" / "models"
BASE = dict(
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_size=160,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    initializer_range=0.2,
)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
HALF_ROPE = dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)
LAYER_TYPES = ["sliding_attention", "full_attention"]
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)
MODELS = {
    "grouped-tied": {},
    "untied-wide-heads": dict(tie_word_embeddings=False, head_dim=20, num_attention_heads=3, num_key_value_heads=1),
    "llama3-rope": dict(rope_parameters=LLAMA3, head_dim=16),
    "yarn-rope": dict(rope_parameters=YARN, head_dim=16),
    "linear-rope": dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.5)),
    "dynamic-rope": dict(rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0), max_position_embeddings=16),
    "biases": dict(attention_bias=True, mlp_bias=True, num_key_value_heads=6),
    "mistral": dict(model_type="mistral", sliding_window=9, head_dim=8),
    "ministral": dict(model_type="ministral", sliding_window=7, head_dim=8, layer_types=["sliding_attention", "full_attention"]),
    "mixtral": dict(model_type="mixtral", num_local_experts=5, intermediate_size=40, tie_word_embeddings=False),
    "qwen2": dict(model_type="qwen2"),
    "qwen2-window": dict(model_type="qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1, tie_word_embeddings=False),
    "qwen3": dict(model_type="qwen3", head_dim=12),
    "qwen3-moe": dict(
        model_type="qwen3_moe", head_dim=8, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20, norm_topk_prob=True
    ),
    "qwen3-moe-balanced": dict(
        model_type="qwen3_moe",
        num_hidden_layers=3,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        norm_topk_prob=False,
        mlp_only_layers=[1],
        output_router_logits=True,
        router_aux_loss_coef=0.5,
    ),
    "olmo2": dict(model_type="olmo2", num_key_value_heads=3, attention_bias=True),
    "olmoe": dict(model_type="olmoe", num_key_value_heads=3, num_experts=6, num_experts_per_tok=2, intermediate_size=20, pad_token_id=0),
    "granite": dict(model_type="granite", embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=2.0),
    "phi3": dict(model_type="phi3", sliding_window=11, pad_token_id=0),
    "phi3-longrope": dict(
        model_type="phi3",
        original_max_position_embeddings=16,
        pad_token_id=0,
        partial_rotary_factor=0.75,
        head_dim=8,
        rope_parameters=dict(
            rope_type="longrope",
            rope_theta=10000.0,
            partial_rotary_factor=0.75,
            original_max_position_embeddings=16,
            short_factor=[1.0, 1.1, 1.3],
            long_factor=[1.5, 2.0, 4.0],
        ),
    ),
    "gemma": dict(model_type="gemma", initializer_range=0.08, head_dim=12, hidden_activation="gelu_pytorch_tanh"),
    "gemma2": dict(
        model_type="gemma2",
        initializer_range=0.08,
        head_dim=12,
        hidden_activation="gelu_pytorch_tanh",
        sliding_window=6,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=1.5,
    ),
    "gemma3": dict(
        model_type="gemma3_text",
        initializer_range=0.08,
        head_dim=12,
        query_pre_attn_scalar=20,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
            sliding_attention=dict(rope_type="default", rope_theta=10000.0),
        ),
    ),
    "embedding": dict(
        model_type="gemma",
        initializer_range=0.08,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        head_dim=8,
        pad_token_id=None,
    ),
    "gemma3-multimodal": dict(
        model_type="gemma3",
        mm_tokens_per_image=4,
        vision_config=dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14),
        text_config=dict(initializer_range=0.08, head_dim=12, query_pre_attn_scalar=20, sliding_window=6, layer_types=LAYER_TYPES),
    ),
    "mistral3": dict(
        model_type="mistral3",
        tie_word_embeddings=False,
        vision_config=dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14),
        text_config=dict(model_type="mistral", head_dim=8, sliding_window=None),
    ),
    "qwen2-vl": dict(
        model_type="qwen2_5_vl",
        vision_config=dict(hidden_size=16, intermediate_size=24, depth=1, num_heads=2, out_hidden_size=48, patch_size=14),
        text_config=dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2])),
    ),
    "qwen3-vl": dict(
        model_type="qwen3_vl",
        vision_config=dict(
            hidden_size=16,
            intermediate_size=24,
            depth=1,
            num_heads=2,
            out_hidden_size=48,
            num_position_embeddings=4,
            deepstack_visual_indexes=[0],
        ),
        text_config=dict(head_dim=12, rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 2, 2])),
    ),
    "glm": dict(model_type="glm", attention_bias=True, pad_token_id=0, head_dim=8, rope_parameters=HALF_ROPE),
    "glm4": dict(model_type="glm4", attention_bias=True, pad_token_id=0, head_dim=8, rope_parameters=HALF_ROPE),
    "gpt2": dict(model_type="gpt2", n_embd=48, n_layer=2, n_head=6, n_inner=80, n_positions=64, pad_token_id=0),
    "cohere": dict(model_type="cohere", logit_scale=0.5, pad_token_id=0, eos_token_id=1),
    "starcoder2": dict(model_type="starcoder2", sliding_window=9),
    "stablelm": dict(model_type="stablelm", use_qkv_bias=True, tie_word_embeddings=False),
    "stablelm-parallel": dict(model_type="stablelm", use_parallel_residual=True),
    "phi": dict(model_type="phi", tie_word_embeddings=False),
    "gpt-neox": dict(model_type="gpt_neox", tie_word_embeddings=False),
    "gpt-neox-sequential": dict(model_type="gpt_neox", use_parallel_residual=False, hidden_act="gelu_new", attention_bias=False),
    "lfm2": dict(
        model_type="lfm2",
        norm_eps=1e-5,
        layer_types=["conv", "full_attention", "conv"],
        num_hidden_layers=3,
        block_multiple_of=16,
        conv_L_cache=4,
    ),
    "smollm3": dict(model_type="smollm3", no_rope_layer_interval=2, pad_token_id=0),
}
# What is adapted, where it is not all linear layers: here an embedding that is scaled and whose matrix is the head's as well.
TARGETS = {"embedding": ["embed_tokens", "q_proj", "down_proj"]}
LENGTHS = [33, 7, 20]


def examples(vocabulary):
    generator = torch.Generator().manual_seed(11)
    pairs = []
    # Dynamic scaling depends on the longest example of a batch: one length each keeps one by one equal to packed.
    for length in LENGTHS:
        ids = torch.randint(0, vocabulary, (length,), generator=generator)
        labels = ids.clone()
        labels[: length // 3] = -100
        pairs.append((ids, labels))
    return pairs


def loss_of(model, pairs):
    if getattr(model.config, "output_router_logits", False):
        # The balancing loss is of a whole batch; padding does not count.
        pad = lambda tensors, value: torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
        ids, labels = pad([i for i, _ in pairs], 0), pad([l for _, l in pairs], -100)
        return model(input_ids=ids, attention_mask=pad([torch.ones_like(i) for i, _ in pairs], 0), labels=labels).loss
    supervised = sum(int((labels[1:] != -100).sum()) for _, labels in pairs)
    total = 0.0
    for ids, labels in pairs:
        logits = model(input_ids=ids[None]).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits.float(), labels[1:], reduction="sum", ignore_index=-100)
    return total / supervised


def adapt(model, targets):
    torch.manual_seed(3)
    others = r".*(vision_tower|visual|projector).*" if hasattr(model.config, "vision_config") else None
    model = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, exclude_modules=others, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model


def config_of(overrides):
    if "text_config" not in overrides:
        return AutoConfig.for_model(**{"model_type": "llama", **BASE, **overrides})
    tied = overrides.get("tie_word_embeddings", True)
    text = {**BASE, **overrides["text_config"], "tie_word_embeddings": tied}
    return AutoConfig.for_model(**{**overrides, "text_config": text, "tie_word_embeddings": tied})


def make(name, overrides):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(5)
    config = config_of(overrides)
    config.use_cache = False
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif "norm" in parameter_name or ".ln_" in parameter_name:
                # Gemma adds 1 to the weights of its norms.
                parameter.normal_(mean=0.0 if config.model_type.startswith("gemma") else 1.0, std=0.1)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    pairs = examples(config.get_text_config().vocab_size)
    # These scale by the longest example of a batch.
    if name in ("dynamic-rope", "phi3-longrope"):
        pairs = pairs[:1]
    tensors = {}
    for i, (ids, labels) in enumerate(pairs):
        tensors[f"ids.{i}"], tensors[f"labels.{i}"] = ids.to(torch.int32), labels.to(torch.int32)
        with torch.no_grad():
            tensors[f"logits.{i}"] = model(input_ids=ids[None]).logits[0].clone()
    if name == "grouped-tied":
        loss_of(model, pairs).backward()
        for parameter_name, parameter in model.named_parameters():
            tensors[f"full.{parameter_name}"] = parameter.grad.clone()
        model.zero_grad()
    model = adapt(model, TARGETS.get(name, "all-linear"))
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    for i, (ids, _) in enumerate(pairs):
        with torch.no_grad():
            tensors[f"adapted.{i}"] = model(input_ids=ids[None]).logits[0].clone()
    loss = loss_of(model, pairs)
    loss.backward()
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    for parameter_name, parameter in trainable:
        tensors["gradient." + parameter_name.replace(".default", "")] = parameter.grad.clone()
    model.zero_grad()
    save_file(tensors, folder / "golden.safetensors")
    golden = {"loss": float(loss), "curve": curve(model, [p for _, p in trainable], pairs)}
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


def curve(model, parameters, pairs):
    """20 optimizer steps on all examples: AdamW 1e-2, linear schedule with 4 steps of warm-up, clipping at 1."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=4, num_training_steps=20)
    steps = []
    for _ in range(20):
        loss = loss_of(model, pairs)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        steps.append({"loss": float(loss.detach()), "grad_norm": float(norm)})
    return steps


if __name__ == "__main__":
    torch.set_num_threads(1)
    for model_name in sys.argv[1:] or MODELS:
        make(model_name, MODELS[model_name])
