#!/usr/bin/env python3
"""Writes tests/data/conversations.json: conversations as ids, and which of them the assistant says, by transformers.

transformers finds the assistant's turns by a tag in the template, which templates in use do not have; Fathom finds them
by rendering each turn's prompt. The template here is llama-text's with that tag.
"""
import json
import pathlib

from transformers import AutoTokenizer

DATA = pathlib.Path(__file__).parent.parent / "data"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
)


def turns(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


CONVERSATIONS = [
    turns("Hi", "Hello"),
    turns("What is 2 + 2?", "4", "And 3 + 3?", "6, of course.", "Thanks"),
    [{"role": "system", "content": "You are brief."}] + turns("Grüße!", "  Über   alles:\n\n- één\n- 二\n", "", "x"),
    turns("a", "<b>a</b>", "the assistant said assistant", "assistant\nassistant"),
]


def main():
    tokenizer = AutoTokenizer.from_pretrained(DATA / "models" / "llama-text")
    result = []
    for messages in CONVERSATIONS:
        encoded = tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, return_dict=True,
                                                return_assistant_tokens_mask=True)
        result.append({"messages": messages, "ids": encoded["input_ids"], "learned": encoded["assistant_masks"]})
    (DATA / "conversations.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in result) + "\n]\n")


if __name__ == "__main__":
    main()
