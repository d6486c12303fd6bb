"""What the interop tests ask of the real peers. `peers.py JOB.json` runs the functions that the job lists, in order.

A job is a list of {"do": name, …}. Tensors go through safetensors files, so that nothing is lost in text.
"""

import contextlib
import json
import pathlib
import sys

import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def logits_of(model, examples):
    with torch.no_grad():
        return {f"logits.{i}": model(input_ids=torch.tensor([ids])).logits[0].float().clone() for i, ids in enumerate(examples)}


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def write_base(folder, config, architecture="LlamaForCausalLM"):
    torch.manual_seed(5)
    kind = getattr(transformers, architecture)
    kind(kind.config_class(**config)).save_pretrained(folder)


def write_adapters(base, examples, adapters):
    """For each {folder, config}: an adapter that PEFT made and saved, and the logits it gives.

    `save` has options of save_pretrained, `move` names weights of the base that are changed before.
    """
    for i, adapter in enumerate(adapters):
        torch.manual_seed(i)
        config = LoraConfig(task_type="CAUSAL_LM", **adapter["config"])
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).eval()
        randomise(model, i)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if any(name.endswith(end) for end in adapter.get("move", [])):
                    parameter.add_(0.05)
        model.save_pretrained(adapter["folder"], **adapter.get("save", {}))
        save_file(logits_of(model, examples), pathlib.Path(adapter["folder"]) / "expected.safetensors")


def class_of(folder):
    """The class that config.json names: for a multimodal model not the one that AutoModelForCausalLM would take."""
    return getattr(transformers, json.loads((pathlib.Path(folder) / "config.json").read_text())["architectures"][0])


def read_adapter(base, folder, examples, out, converted=False):
    """Loads an adapter; fails on any missing or unexpected tensor. `converted`: PEFT makes its own names of those in the file."""
    tensors = load_file(pathlib.Path(folder) / "adapter_model.safetensors")
    fresh = get_peft_model(class_of(base).from_pretrained(base), PeftConfig.from_pretrained(folder))
    wanted = set(get_peft_model_state_dict(fresh, save_embedding_layers=False))
    if not converted:
        assert set(tensors) == wanted, f"missing {sorted(wanted - set(tensors))}, unexpected {sorted(set(tensors) - wanted)}"
    result = set_peft_model_state_dict(fresh, tensors)
    assert not result.unexpected_keys, result.unexpected_keys
    missing = [key for key in result.missing_keys if "lora_" in key]
    assert not missing, missing
    model = PeftModel.from_pretrained(class_of(base).from_pretrained(base), folder).eval()
    save_file(logits_of(model, examples), out)


def read_model(folder, examples, out):
    """Loads a whole model; fails on any missing or unexpected tensor."""
    model, info = class_of(folder).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    problems = {key: list(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    assert not any(problems.values()), problems
    save_file(logits_of(model.eval(), examples), out)


def gradients_of(model, batch, cast):
    supervised = sum(sum(label >= 0 for label in labels) for labels in batch["labels"])
    total = 0.0
    with cast:
        for ids, labels in zip(batch["ids"], batch["labels"]):
            logits = model(input_ids=torch.tensor([ids])).logits[0].float()
            total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum", ignore_index=-100)
    loss = total / supervised
    loss.backward()
    return loss


def train_real_model(folder, file, batch, adapter, out, steps, learning_rate):
    """A real model out of its GGUF file: logits, gradients in f32 and bf16, and a loss curve from the adapter in `adapter`."""
    base = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    tensors = logits_of(base, batch["ids"])
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    trainable = {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}

    def gradients(prefix, cast):
        loss = gradients_of(model, batch, cast)
        for name, parameter in trainable.items():
            tensors[f"{prefix}.{name}"] = parameter.grad.clone()
        model.zero_grad()
        return float(loss.detach())

    losses = {"f32": gradients("f32", contextlib.nullcontext())}
    curve = []
    start = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=learning_rate, weight_decay=0.0)
    for _ in range(steps):
        loss = gradients_of(model, batch, contextlib.nullcontext())
        torch.nn.utils.clip_grad_norm_(trainable.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        curve.append(float(loss.detach()))
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(start[name])
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.to(torch.bfloat16)
    losses["bf16"] = gradients("bf16", torch.autocast("cpu", dtype=torch.bfloat16))
    save_file(tensors, out)
    pathlib.Path(out).with_suffix(".json").write_text(json.dumps({"losses": losses, "curve": curve}))


def train_whole_model(folder, steps, out, bf16, options):
    """Full fine-tuning as transformers' Trainer does it: its groups of weight decay, f32 weights, autocast where bf16. `steps`: batches."""
    from transformers import Trainer

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [p for n, p in parameters.items() if n in decayed], "weight_decay": options["weight_decay"]},
        {"params": [p for n, p in parameters.items() if n not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options["learning_rate"], betas=(0.9, 0.999), eps=1e-8)
    curve, norms = [], []
    for batch in steps:
        loss = gradients_of(model, batch, torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext())
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_grad_norm"])))
        optimizer.step()
        optimizer.zero_grad()
        curve.append(float(loss.detach()))
    save_file({name: parameter.detach().clone() for name, parameter in parameters.items()}, out)
    pathlib.Path(out).with_suffix(".json").write_text(json.dumps({"curve": curve, "norms": norms, "decayed": sorted(decayed)}))


def read_whole(folder, examples, text, out):
    """Everything in a model's folder as users open it: weights in their dtype, generation settings, tokenizer."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    problems = {key: list(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    assert not any(problems.values()), problems
    tokenizer = AutoTokenizer.from_pretrained(folder)
    facts = {
        "dtype": str(model.dtype),
        "tied": model.lm_head.weight is model.model.embed_tokens.weight,
        "temperature": model.generation_config.temperature,
        "eos": model.generation_config.eos_token_id,
        "ids": tokenizer(text, add_special_tokens=False)["input_ids"],
        "chat": tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True),
    }
    save_file(logits_of(model.float().eval(), examples), out)
    pathlib.Path(out).with_suffix(".json").write_text(json.dumps(facts))


def tokenize(folder, file, texts, out):
    """Token ids of texts, and of a conversation through the chat template, with the tokenizer inside a GGUF file."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    pathlib.Path(out).write_text(json.dumps({"ids": ids, "eos": tokenizer.eos_token_id, "bos": tokenizer.bos_token_id}))


def write_gguf(folder, architecture, permuted, norm_offset, numbers, out, stacked=True, split=0):
    """A model as llama.cpp's converter writes it: names from the gguf package's own map, rows interleaved by head.

    `split`: most tensors of a file; more go into parts.
    """
    import gguf
    from safetensors.torch import load_file

    # By the names that transformers has for all families.
    known = transformers.AutoConfig.from_pretrained(folder)
    config = {key: getattr(known, key) for key in known.attribute_map} | known.to_dict()
    heads = config["num_attention_heads"]
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(out, architecture, split_max_tensors=split)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    tensors = load_file(pathlib.Path(folder) / "model.safetensors")
    # Of LFM2 config.json does not say the width of the MLP itself.
    gate = tensors.get("model.layers.0.feed_forward.w1.weight")
    writer.add_feed_forward_length(gate.shape[0] if gate is not None else config.get("intermediate_size") or config["n_inner"])
    writer.add_head_count(heads)
    types, groups = config.get("layer_types") or [], config.get("num_key_value_heads") or heads
    writer.add_head_count_kv([0 if kind == "conv" else groups for kind in types] if "conv" in types else groups)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_key_length(head_dim)
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    else:
        writer.add_layer_norm_eps(next(config[key] for key in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon") if key in config))
    if rope := config.get("rope_parameters"):
        writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
        writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1) * head_dim))
    for key, value in numbers.items():
        whole = key.endswith(("window", "count", "length", "l_cache"))
        add = writer.add_bool if isinstance(value, bool) else writer.add_uint32 if whole else writer.add_float32
        add(f"{architecture}.{key}", value)
    tokens = ["a", "b", "ab", *(f"t{i}" for i in range(3, config["vocab_size"]))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    for name in [name for name in tensors if ".experts.0." in name]:
        # One tensor of all experts; older files have one of each.
        parts = [tensors.pop(name.replace(".experts.0.", f".experts.{e}.")) for e in range(numbers["expert_count"])]
        if not stacked:
            path = names.get_name(name.replace(".experts.0.", ".experts."), try_suffixes=(".weight",))
            for e, part in enumerate(parts):
                writer.add_tensor(path.replace("_exps", f".{e}"), part.contiguous().numpy())
            continue
        tensors[name.replace(".experts.0.", ".experts.")] = torch.stack(parts)
    for name, tensor in tensors.items():
        if name.endswith("conv.conv.weight"):
            tensor = tensor.squeeze(1)
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        module = name.split(".")[-2]
        if permuted and module in ("q_proj", "k_proj"):
            count = heads if module == "q_proj" else config["num_key_value_heads"]
            tensor = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        if module == "query_key_value":
            tensor = tensor.reshape(heads, 3, head_dim, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)
        if config["model_type"] == "gpt2" and module in ("c_attn", "c_proj", "c_fc") and tensor.dim() == 2:
            tensor = tensor.T
        if name.endswith("norm.weight"):
            tensor = tensor + norm_offset
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def optimizer_of(name, parameters, lr, beta1, beta2, eps, weight_decay):
    import bitsandbytes
    from transformers.optimization import Adafactor

    settings = {"lr": lr, "weight_decay": weight_decay}
    betas = {"betas": (beta1, beta2)}
    if name == "adamw_torch":
        return torch.optim.AdamW(parameters, eps=eps, **betas, **settings)
    if name == "adamw_bnb_8bit":
        return bitsandbytes.optim.AdamW8bit(parameters, eps=eps, **betas, **settings)
    if name in ("lion_pytorch", "lion_8bit"):
        kind = bitsandbytes.optim.Lion if name == "lion_pytorch" else bitsandbytes.optim.Lion8bit
        return kind(parameters, **betas, **settings)
    if name == "adafactor":
        return Adafactor(parameters, scale_parameter=False, relative_step=False, **settings)
    return torch.optim.SGD(parameters, **settings)


def optimize(name, start, gradients, steps, options, out):
    """Updates the parameters in `start` by the gradients `<step>.<parameter>`; saves parameters and states after every step."""
    parameters = {key: torch.nn.Parameter(value) for key, value in load_file(start).items()}
    given = load_file(gradients)
    optimizer = optimizer_of(name, list(parameters.values()), **options)
    tensors = {}
    for step in range(steps):
        for key, parameter in parameters.items():
            parameter.grad = given[f"{step}.{key}"]
        optimizer.step()
        for key, parameter in parameters.items():
            tensors[f"{step}.parameter.{key}"] = parameter.detach().clone()
            for state, value in optimizer.state[parameter].items():
                if torch.is_tensor(value) and value.dim() > 0 and not state.startswith("qmap"):
                    tensors[f"{step}.{state}.{key}"] = value.detach().float().clone()
    save_file(tensors, out)


def quantize(tensors, cases, out):
    """Every tensor by every case {quant_type, blocksize, nested}: codes and state as bitsandbytes stores them; `i.int8` for matrices."""
    import bitsandbytes.functional as F

    result = {}
    # The mean of the scales is summed by as many threads as there are.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, tensor in load_file(tensors).items():
        for i, case in enumerate(cases):
            packed, state = F.quantize_4bit(
                tensor, blocksize=case["blocksize"], quant_type=case["quant_type"], compress_statistics=case["nested"]
            )
            result[f"{name}.{i}"] = packed.reshape(-1)
            for key, value in state.as_dict(packed=True).items():
                result[f"{name}.{i}.{key}"] = value.clone()
            result[f"{name}.{i}.numbers"] = F.dequantize_4bit(packed, state).float().reshape(-1)
        codes, scales, _ = F.int8_vectorwise_quant(tensor.to(torch.float16))
        result[f"{name}.int8"], result[f"{name}.SCB"] = codes, scales
    torch.set_num_threads(threads)
    save_file(result, out)


def bits_and_bytes(kind, nested):
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested, bnb_4bit_compute_dtype=torch.float32
    )


def write_quantized(base, folder, kind, nested, examples, out):
    """Quantises a model as transformers does and saves it; its logits with f32 activations (for inference it would take bf16)."""
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=bits_and_bytes(kind, nested), dtype=torch.float32)
    model.save_pretrained(folder)
    save_file(logits_of(model.train(), examples), out)


def read_quantized(folder, examples, out):
    """A quantised model that was saved, with f32 activations; fails on any missing or unexpected tensor."""
    model, info = class_of(folder).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    problems = {key: list(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    assert not any(problems.values()), problems
    assert model.is_quantized
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    save_file(logits_of(model.train(), examples), out)


if __name__ == "__main__":
    torch.set_num_threads(2)
    for job in json.loads(pathlib.Path(sys.argv[1]).read_text()):
        globals()[job.pop("do")](**job)
