"""GGUF files and blocks with what the `gguf` package and transformers read from them.

Writes test/golden/gguf/: blocks.safetensors (`<type>.bytes`, `<type>.values`: random blocks with finite scales, and quantised normal
numbers where the package can quantise); byte-level.gguf and sentencepiece.gguf (tiny Llamas with every part of a real file), for each
<name>.safetensors (the weights as transformers loads them) and <name>.json (its config, token ids of texts, special tokens).
"""
import json
import pathlib
import shutil
import tempfile

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = pathlib.Path(__file__).parents[2] / "test" / "golden" / "gguf"
# Where a block's f16 scales lie, in bytes: random bits there could be infinite.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2],
          T.Q5_K: [0, 2], T.Q6_K: [208]}
TEXT = """The quick brown fox jumps over the lazy dog. It's 12:30; we'll meet 7 others at 1234 Main Street, won't we?
def add(a, b):\n    return a + b  # the sum of 2 numbers\n\nGrüße aus Köln, naïve café — “quoted” … 日本語 Привет 😀
for (let i = 0; i < 10; i++) { total += prices[i]; }\n\n\n- one\n- two\n  - three\n""" * 3
TEXTS = ["", " ", "Hello world", "  two  spaces", "It's we'll DON'T", "1234567 8 90", "x   42", "tabs\t\tand\nlines\r\n\r\n",
         "Grüße 日本語 😀 Привет",
         "def add(a, b):\n    return a + b", "<|im_start|>user\nhi<|im_end|>", "a<think>b</think> c", "<s>x</s>", "\u00a0\u200b\ufeff",
         "<0x41> ▁ Ġ",
         "trailing   ", "ÀÉÎ combining e\u0301", "......,,,,", "ſ K ½ ²", "\x00\x01", TEXT[: len(TEXT) // 3],
         "overthinking brownish jumpers streetwise priceless forethought quickness mainstream meetings"]
WIDTH, HEADS, GROUPS, MLP, LAYERS = 64, 4, 2, 96, 2


def random_blocks(kind, count, generator):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    data = generator.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[kind]:
        # From subnormal to large, of both signs, zeros among them.
        scale = (generator.standard_normal(count) * 2.0 ** generator.integers(-20, 6, count)).astype(np.float16)
        scale[0] = 0
        data[:, at : at + 2] = scale.view(np.uint8).reshape(count, 2)
    return data


def blocks():
    generator = np.random.default_rng(7)
    tensors = {}
    for kind in SCALES:
        data = random_blocks(kind, 24, generator)
        try:
            normal = generator.standard_normal((4, 256)).astype(np.float32)
            data = np.concatenate([data, gguf.quantize(normal, kind).reshape(-1, data.shape[1])])
        except NotImplementedError:
            pass
        tensors[f"{kind.name}.bytes"] = data.reshape(-1)
        tensors[f"{kind.name}.values"] = gguf.dequantize(data, kind).reshape(-1).astype(np.float32)
    save_file(tensors, OUT / "blocks.safetensors")


def byte_level_vocabulary(writer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get) + ["<think>", "</think>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 5) + [4] * 2)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    return len(tokens)


def sentencepiece_vocabulary(writer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=320, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    characters = [p for p in pieces if len(p) == 1]
    merged = [p for p in pieces if len(p) > 1]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + merged + characters
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(merged) + len(characters))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(merged) + len(characters)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    return len(tokens)


def tensors_of(vocabulary, tied):
    head = WIDTH // HEADS
    yield "token_embd.weight", (vocabulary, WIDTH), T.Q8_0
    yield "output_norm.weight", (WIDTH,), T.F32
    if not tied:
        yield "output.weight", (vocabulary, WIDTH), T.F16
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", (WIDTH,), T.F32
        yield f"{block}.ffn_norm.weight", (WIDTH,), T.F32
        yield f"{block}.attn_q.weight", (HEADS * head, WIDTH), T.Q4_1
        yield f"{block}.attn_k.weight", (GROUPS * head, WIDTH), T.F16 if layer else T.Q5_0
        yield f"{block}.attn_v.weight", (GROUPS * head, WIDTH), T.BF16
        yield f"{block}.attn_output.weight", (WIDTH, HEADS * head), T.Q4_0
        yield f"{block}.ffn_gate.weight", (MLP, WIDTH), T.Q5_1
        yield f"{block}.ffn_up.weight", (MLP, WIDTH), T.F32
        yield f"{block}.ffn_down.weight", (WIDTH, MLP), T.Q8_0


def file(name, vocabulary, tied):
    generator = np.random.default_rng(len(name))
    path = OUT / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(50000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    for tensor, shape, kind in tensors_of(vocabulary(writer), tied):
        values = (generator.standard_normal(shape) * 0.1).astype(np.float32)
        writer.add_tensor(tensor, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expectations(name, path)


def expectations(name, path):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, pathlib.Path(folder) / "model.gguf")
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)
    if name == "sentencepiece":
        # SentencePiece, llama.cpp and the tokenizer.json of Llama 2 and Mistral put the prefix before any text; transformers' reading of a
        # GGUF file leaves it out before a space and after a special token.
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    tied = model.config.tie_word_embeddings
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_tensors(weights, OUT / f"{name}.safetensors")
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "max_position_embeddings", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"]
    golden = {
        "config": {key: getattr(model.config, key) for key in keys},
        "special": {key: value for key, value in tokenizer.special_tokens_map.items() if key.endswith("_token")},
        "encodings": [{"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"], "special": tokenizer(text)["input_ids"],
                       "decoded": tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])} for text in TEXTS],
    }
    (OUT / f"{name}.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    blocks()
    file("byte-level", byte_level_vocabulary, True)
    file("sentencepiece", sentencepiece_vocabulary, False)
