"""Chat templates of public models, read out of the wheels in a folder, rendered by transformers: public_templates.py FOLDER OUT

Writes JSON: for each template its name and source, and for each conversation the text, the prompt and what generation blocks enclose, or
null where the template refuses it. Contents are unique words, by which a test finds whose text is where.
"""
import datetime
import json
import pathlib
import sys
import zipfile

import transformers.utils.chat_template_utils as utils


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 6, 15, 4, 5)


utils.datetime = FixedDatetime
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "A city"},
        "days": {"type": "integer", "enum": [1, 2], "default": 1},
        "exact": {"type": ["boolean", "null"], "default": False},
        "limit": {"type": "number", "maximum": 20.0, "minimum": 1e-07},
    },
    "required": ["city"],
}


def tool(name, description, parameters):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool("weather", "Tells the weather & more: <b>\"é😀\"</b>", PARAMETERS),
    tool("none", "Nothing", {"type": "object", "properties": {}}),
]
ARGUMENTS = {
    "city": "Call1 it's", "days": 2, "exact": True, "limit": 20.0, "id": 2512292042121000001, "tags": ["x", None, 0.1],
    "more": {"b": {}, "a": [False]},
}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(**arguments):
    return [{"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": arguments}}]


def user(content):
    return message("user", content)


def assistant(content, **more):
    return message("assistant", content, **more)


def text(content):
    return {"type": "text", "text": content}


SYSTEM = message("system", "System1")
RESULT = message("tool", "Result1", name="weather", tool_call_id="call00001")
TWO_TURNS = [user("User1"), assistant("Answer1"), user("User2"), assistant("Answer2")]
CONVERSATIONS = {
    "one turn": dict(messages=[user("User1 'q' 😀"), assistant("Answer1\n\nlines")]),
    "two turns": dict(messages=[user(" User1 "), *TWO_TURNS[1:]]),
    "system": dict(messages=[SYSTEM, *TWO_TURNS]),
    "tools": dict(tools=TOOLS, messages=[user("User1"), assistant("", tool_calls=call(**ARGUMENTS)), RESULT, assistant("Answer2")]),
    "tools, more turns": dict(tools=TOOLS, messages=[
        SYSTEM, user("User1"), assistant(None, tool_calls=call(city="Call1")), RESULT, assistant("Answer2"),
        user("User2"), assistant("Answer3"),
    ]),
    "tools, unused": dict(tools=TOOLS, messages=[user("User1"), assistant("Answer1", tool_calls=[])]),
    "reasoning": dict(messages=[
        user("User1"), assistant("Answer1", reasoning_content="Reason1"), user("User2"), assistant("Answer2", reasoning="Reason2"),
    ]),
    "written thinking": dict(messages=[
        user("User1"), assistant("<think>\nReason1\n</think>\n\nAnswer1"),
        user("User2"), assistant("<think>\nReason2\n</think>\n\nAnswer2"),
    ]),
    "reasoning and tools": dict(tools=TOOLS, messages=[
        user("User1"), assistant("Answer1", reasoning_content="Reason1", tool_calls=call(city="Call1")), RESULT,
        assistant("Answer2", reasoning_content="Reason2"),
    ]),
    "parts": dict(messages=[user([{"type": "image"}, text("User1")]), assistant([text("Answer1")])]),
    "parts of users": dict(messages=[user([text("User1"), {"type": "image", "image": "x.png"}]), assistant("Answer1")]),
}


def wheel_templates(folder):
    for path in sorted(pathlib.Path(folder).glob("*.whl")):
        package = path.name.split("-")[0]
        with zipfile.ZipFile(path) as wheel:
            for name in sorted(wheel.namelist()):
                stem = pathlib.PurePosixPath(name).stem
                if name.endswith(".jinja"):
                    yield f"{package} {stem}", wheel.read(name).decode()
                elif name.startswith("xinference/model/llm/models/") and name.endswith(".json"):
                    entries = json.loads(wheel.read(name))
                    for entry in entries if isinstance(entries, list) else [entries]:
                        template = entry.get("chat_template")
                        if isinstance(template, str) and "{%" in template:
                            yield f"{package} {stem}", template


def render(source, messages, tools=None, prompt=False):
    chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
    masked = "generation %}" in source or "generation -%}" in source
    try:
        texts, spans = utils.render_jinja_template(
            [chat], tools=tools, chat_template=source, add_generation_prompt=prompt, return_assistant_tokens_mask=masked, **SPECIAL)
    except Exception as error:  # noqa: BLE001: whatever the template raises, it refuses the conversation
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": texts[0], "generated": spans[0] if masked else []}


def main():
    folder, out = sys.argv[1:]
    templates, seen = [], set()
    for name, source in wheel_templates(folder):
        if source in seen:
            continue
        seen.add(source)
        cases = []
        for conversation, given in CONVERSATIONS.items():
            whole = render(source, **given)
            start = render(source, given["messages"][:-1], given.get("tools"), prompt=True)
            cases.append({"conversation": conversation, **whole, "prompt": start.get("text")})
        templates.append({"name": name, "source": source, "cases": cases})
    pathlib.Path(out).write_text(json.dumps({"special": SPECIAL, "conversations": CONVERSATIONS, "templates": templates}))


main()
