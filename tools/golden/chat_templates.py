"""Chat templates rendered, tokenized and masked by transformers, with small tokenizers of the usual kinds.

Writes test/golden/templates/: <kind>.tokenizer.json (trained here, on text of this file), and golden.json: for each template and
conversation the text, the prompt, the token ids and the assistant mask of `apply_chat_template`; and texts with their ids and back.
Needs the packages of requirements.txt and jinja2==3.1.6.
"""
import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as chat_template_utils
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

OUT = pathlib.Path(__file__).parents[2] / "test" / "golden" / "templates"


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 6, 15, 4, 5)


chat_template_utils.datetime = FixedDatetime

CORPUS = [
    "You are a small assistant. The user asks a question and the assistant answers it.",
    "Hello! How are you today? I am fine, thank you. What is the capital of France? It is Paris.",
    "<think>\nLet me think about the question first, and then answer.\n</think>\n\nThe answer is 42.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))  # prints 3",
    "Order 3 pizzas and 12 bottles of water for the 26th of July 2024, please.",
    "Die Bäume im Garten sind größer geworden. L'été, les élèves étaient à la plage.",
    "Сегодня хорошая погода. 今天天气很好。 今日はいい天気です。 오늘은 날씨가 좋습니다.",
    "system user assistant model December January Knowledge ends Today [INST] [/INST] <<SYS>> <</SYS>>",
] * 4

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
           "<bos>", "<start_of_turn>", "<end_of_turn>"]
LLAMA3_REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(bos, pre, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in ("<think>", "</think>")])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                                                                 special_tokens=[(bos, tokenizer.token_to_id(bos))])
    return tokenizer


def sentencepiece(control, normalizer, pre, strip):
    """A BPE with ▁ for spaces and <0xNN> for bytes, as converted from SentencePiece."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], show_progress=False)
    trained.train_from_iterator([" " + line for line in CORPUS[:6]], trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = sorted((piece for piece in model["vocab"] if piece != "<unk>"), key=model["vocab"].get)
    names = ["<unk>"] + control + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    merges = [tuple(merge) for merge in model["merges"]]
    vocab = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ["<unk>"] + control])
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))
    bos = control[0]
    special = [(bos, tokenizer.token_to_id(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=special)
    return tokenizer


def kinds():
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    by_pattern = pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated")
    split = pre_tokenizers.Sequence([by_pattern, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    space = normalizers.Replace(" ", "▁")
    return {
        "byte-level": (byte_level(None, digits), dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")),
        "byte-level-nfc": (byte_level(None, split, normalizers.NFC()), dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")),
        "byte-level-bos": (byte_level("<|begin_of_text|>", split), dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")),
        "llama2": (sentencepiece(["<s>", "</s>"], normalizers.Sequence([normalizers.Prepend("▁"), space]), None, True),
                   dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")),
        "gemma": (sentencepiece(["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"], space,
                                pre_tokenizers.Split(" ", "merged_with_previous"), False),
                  dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")),
    }


def say(*contents, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    return messages + [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


CONVERSATIONS = [
    say("Hello!", "Hello! How are you?"),
    say("What is the capital of France?", "It is Paris.", "And of Germany?", "Berlin", "Thank you", "You are welcome!"),
    say("Order 3 pizzas, please", '{"item": "pizza", "count": 3}', system="You turn orders into JSON."),
    say("  spaces around  ", "  kept or trimmed \n"),
    say("emoji 🎉 and 漢字?", "🤷🏽‍♀️ Ça va, größer, 今日はいい天気です。"),
    say("decomposed e\u0301 and n\u0303", "cafe\u0301 A\u030a", "more", "o\u0308k"),
    say("count", "1234567890 times\n\n\ttabbed"),
    say("say nothing", "", "again", "x"),
    say("think", "<think>\nfirst\n</think>\n\nsecond", "again", "<think>\nthird\n</think>\n\nfourth", system="Think."),
    say("I write <|im_end|> and </s> and <eos> myself", "So <|im_start|> do I"),
]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
CALL = [
    {"role": "user", "content": "Weather in Köln?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}],
    },
    {"role": "tool", "content": "{\"degrees\": 21.5}"},
    {"role": "assistant", "content": "21.5 degrees."},
]
USES = [("chatml", "byte-level"), ("chatml", "byte-level-nfc"), ("llama3", "byte-level-bos"), ("llama2", "llama2"), ("gemma", "gemma"),
        ("qwen", "byte-level-nfc"), ("tools", "byte-level")]
TEXTS = ["", " ", "Hello  world \n", "1234567 and 89", "e\u0301 Ångström", "🎉🤷🏽‍♀️", "日本語とРусский",
         "<|im_start|>user\nHi<|im_end|>", "</s> x <s>",
         "tab\tand\u00a0nbsp\u3000wide", "don't we'LL I'm", "a" * 100, "\r\nline\r\n", "\x00\x7f", "<think>so</think>",
         "x ▁ y", " two  leading"]


def main():
    for path in OUT.glob("*.json"):
        path.unlink()
    tokenizers = {}
    for kind, (tokenizer, special) in kinds().items():
        tokenizer.save(str(OUT / f"{kind}.tokenizer.json"), pretty=False)
        tokenizers[kind] = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    cases, encodings = [], []
    for template, kind in USES:
        tokenizer = tokenizers[kind]
        source = (OUT / f"{template}.jinja").read_text()
        for messages in CONVERSATIONS + ([CALL] if template == "tools" else []):
            if template == "gemma" and messages[0]["role"] == "system":
                continue
            options = dict(chat_template=source, tools=TOOLS if messages is CALL else None)
            out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **options)
            cases.append({
                "template": template, "tokenizer": kind, "messages": messages, "tools": options["tools"],
                "text": tokenizer.apply_chat_template(messages, tokenize=False, **options),
                "prompt": tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True, **options),
                "ids": out["input_ids"], "mask": out["assistant_masks"],
            })
    for kind, tokenizer in tokenizers.items():
        for text in TEXTS:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            encodings.append({"tokenizer": kind, "text": text, "ids": ids, "special": tokenizer(text)["input_ids"],
                              "decoded": tokenizer.decode(ids), "skipped": tokenizer.decode(ids, skip_special_tokens=True)})
    special = {kind: tokenizer.special_tokens_map for kind, tokenizer in tokenizers.items()}
    golden = {"special_tokens": special, "cases": cases, "encodings": encodings}
    (OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
