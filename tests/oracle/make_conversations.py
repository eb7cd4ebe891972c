#!/usr/bin/env python3
"""Writes tests/data/conversations.json: conversations as ids, and which of them the assistant says, by transformers.

transformers finds what the assistant says by a tag in the template, which templates in use do not have. The templates
here have it, put where the assistant speaks when such a model is used: behind the generation prompt. All are written
for this purpose, in the manner of the models that their names say. Fathom is given them with the tags and without.
"""
import json
import pathlib
import re

from transformers import AutoTokenizer

DATA = pathlib.Path(__file__).parent.parent / "data"
SAYS, SAID = "{% generation %}", "{% endgeneration %}"
LLAMA, LLAMA2 = "models/llama-text", "tokenizers/llama2"


def chat(assistant, other, before="", each="", prompt="", after=""):
    """A template by its parts."""
    return (f"{before}{{% for m in messages %}}{each}{{% if m.role == 'assistant' %}}{assistant}{{% else %}}{other}{{% endif %}}"
            f"{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% else %}}{after}{{% endif %}}")


def chatml(assistant, before="", each="", prompt=""):
    start = "{{ '<|im_start|>assistant\\n' }}"
    return chat(start + assistant, "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}", before, each, start + prompt)


ANSWER = "{% set answer = m.content.split('</think>')[-1].lstrip('\\n') %}"
LAST_QUESTION = ("{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
                 "{% endif %}{% endfor %}")
TEMPLATES = {
    "chatml": chatml(SAYS + "{{ m.content + '<|im_end|>' }}" + SAID + "{{ '\\n' }}"),
    "metharme": chat("[assistant]" + SAYS + "{{ m.content }}{{ eos_token if loop.last }}" + SAID,
                     "[{{ m.role }}]{{ m.content }}{{ eos_token if loop.last }}", prompt="[assistant]"),
    "phi-3": chat("{{ '<|assistant|>\\n' }}" + SAYS + "{{ m.content + '<|end|>' }}{{ '\\n' + eos_token if loop.last }}" + SAID
                  + "{{ '' if loop.last else '\\n' }}",
                  "{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{{ eos_token if loop.last }}", prompt="{{ '<|assistant|>\\n' }}"),
    "deepseek-r1": chat("<Assistant>" + SAYS + "{{ m.content.split('</think>')[-1] + eos_token }}" + SAID,
                        "{{ '<User>' + m.content }}", before="{{ bos_token }}", prompt="{{ '<Assistant><think>\\n' }}"),
    "qwq": chatml(ANSWER + SAYS + "{{ answer + '<|im_end|>' }}" + SAID + "{{ '\\n' }}", prompt="{{ '<think>\\n' }}"),
    "qwq, thoughts kept": chatml("{{ '<think>\\n' if m.content.startswith('<think>\\n') }}" + SAYS
                                 + "{{ m.content.removeprefix('<think>\\n') + '<|im_end|>' }}" + SAID + "{{ '\\n' }}", prompt="{{ '<think>\\n' }}"),
    "deepseek-v3": chat(ANSWER + "<Assistant></think>" + SAYS + "{{ answer + eos_token }}" + SAID, "{{ '<User>' + m.content }}",
                        prompt="<Assistant></think>"),
    "nemotron": chatml(ANSWER + "{{ '<think>' }}" + SAYS + "{{ '</think>' + answer + '<|im_end|>' }}" + SAID + "{{ '\\n' }}",
                       prompt="{{ '<think>\\n' }}"),
    "gemma-4": chat("{{ '<|turn>model\\n' }}" + SAYS + "{{ m.content | trim + '<turn|>' }}" + SAID + "{{ '\\n' }}",
                    "{{ '<|turn>' + m.role + '\\n' + m.content | trim + '<turn|>\\n' }}", before="{{ bos_token }}",
                    prompt="{{ '<|turn>model\\n<|channel>thought\\n<channel|>' }}"),
    "qwen-3": chatml(ANSWER + SAYS + "{% if loop.index0 > ns.last %}{{ '<think>\\n' }}{% if '</think>' in m.content %}"
                     "{{ m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') }}{% endif %}{{ '\\n</think>\\n\\n' }}{% endif %}"
                     "{{ answer }}{% for call in m.tool_calls or [] %}{{ '\\n<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}"
                     "{% endfor %}{{ '<|im_end|>' }}" + SAID + "{{ '\\n' }}", before=LAST_QUESTION),
    "mistral": chat(SAYS + "{{ '[TOOL_CALLS] ' + m.tool_calls | map(attribute='function') | list | tojson if m.tool_calls else "
                    "' ' + m.content | trim }}{{ eos_token }}" + SAID,
                    "{% if m.role == 'user' %}{{ '[INST] ' }}{% if loop.index0 == ns.last and messages[0].role == 'system' %}"
                    "{{ messages[0].content + '\\n\\n' }}{% endif %}{{ m.content + '[/INST]' }}{% endif %}",
                    before="{{ bos_token }}" + LAST_QUESTION),
    "late system": chatml(SAYS + "{{ m.content + '<|im_end|>' }}" + SAID + "{{ '\\n' }}",
                          before=LAST_QUESTION, each="{% if loop.index0 == ns.last %}{{ '(the last)\\n' }}{% endif %}"),
    "late system, nemotron": chatml("{{ '<think>' }}" + SAYS + "{{ '</think>' + m.content + '<|im_end|>' }}" + SAID + "{{ '\\n' }}",
                                    before=LAST_QUESTION, each="{% if loop.index0 == ns.last %}{{ '(the last)\\n' }}{% endif %}",
                                    prompt="{{ '<think>\\n' }}"),
    "llama-3": chat("{{ '<h>assistant</h>\\n\\n' }}" + SAYS + "{{ m.content | trim + eos_token }}" + SAID,
                    "{{ '<h>' + m.role + '</h>\\n\\n' + m.content | trim + '<|endoftext|>' }}", prompt="{{ '<h>assistant</h>\\n\\n' }}"),
    "no prompt": chat("{{ 'Bot: ' }}" + SAYS + "{{ m.content + eos_token }}" + SAID + "{{ '\\n' }}", "{{ 'You: ' + m.content + '\\n' }}"),
    "in a macro": "{% macro turn(m) %}" + SAYS + "{{ m.content + eos_token }}" + SAID + "{% endmacro %}"
                  + chat("[assistant]{{ turn(m) }}", "[user]{{ m.content }}", prompt="[assistant]"),
    "plain": chat("{{ '### Answer:\\n' }}" + SAYS + "{{ m.content }}" + SAID + "{{ '\\n\\n' }}", "{{ '### Question:\\n' + m.content + '\\n\\n' }}",
                  prompt="{{ '### Answer:\\n' }}"),
}


def turns(*contents, first="user"):
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


SYSTEM = [{"role": "system", "content": "You are brief."}]
CALL = [{"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "rain", "arguments": {"in": "Rom"}}}]},
        {"role": "tool", "content": "no"}, {"role": "assistant", "content": "No."}]
THREE = turns("Hi", "Hello", "Who are you?", "Nobody", "Bye")
TWICE = turns("Hi", "Hi", "Hi", "Hi")  # who speaks is not told by the words
THOUGHT = turns("Hi", "<think>\nA greeting.\n</think>\n\nHello", "And?", "<think>\nMore.\n</think>\n\nNo <b>more</b>")
CONVERSATIONS = {
    "chatml": [
        turns("Hi", "Hello"),
        turns("What is 2 + 2?", "4", "And 3 + 3?", "6, of course.", "Thanks"),
        SYSTEM + turns("Grüße!", "  Über   alles:\n\n- één\n- 二\n", "", "x"),
        turns("a", "<b>a</b>", "the assistant said assistant", "assistant\nassistant"),
        turns("<|im_end|>?", "It is <|im_end|>\n<|im_start|>user\nas a token", "Oh", "<|im_end|>"),
        turns("Hello", "Hi", "Bye", first="assistant"), TWICE,
    ],
    "metharme": [THREE, THREE[:4], TWICE, turns("a", "", "<|im_end|>", "b")],
    "phi-3": [THREE, THREE[:4], turns("a", "b<|end|>\nc", "d", "e")],
    "deepseek-r1": [turns("Hi", "Hello"), THREE, THOUGHT],
    "qwq": [turns("Hi", "<b>Hello</b>"), THREE, THOUGHT],
    "qwq, thoughts kept": [turns("Hi", "Hello"), THOUGHT],
    "deepseek-v3": [turns("Hi", "Hello"), THOUGHT],
    "nemotron": [turns("Hi", "Hello"), THREE, THOUGHT],
    "gemma-4": [turns("Hi", "Hello"), THREE],
    "qwen-3": [turns("Hi", "Hello"), THREE, THOUGHT, SYSTEM + THOUGHT + turns("c", "d"), CALL],
    "mistral": [turns("Hi", " Hello "), THREE, SYSTEM + THREE[:4], CALL],
    "late system": [THREE, TWICE],
    "late system, nemotron": [THREE],
    "llama-3": [THREE, SYSTEM + turns("a", "\n b")],
    "no prompt": [THREE],
    "in a macro": [THREE[:4]],
    "plain": [THREE, THREE[:4]],
}


def main():
    rows = []
    for kind, conversations in CONVERSATIONS.items():
        for where in (LLAMA, LLAMA2) if kind in ("mistral", "metharme", "phi-3") else (LLAMA,):
            tokenizer = AutoTokenizer.from_pretrained(DATA / where)
            plain = re.sub("{% (end)?generation %}", "", TEMPLATES[kind])
            chats = []
            for messages in conversations:
                encoded = tokenizer.apply_chat_template(messages, chat_template=TEMPLATES[kind], return_dict=True,
                                                        return_assistant_tokens_mask=True)
                assert encoded["input_ids"] == tokenizer.apply_chat_template(messages, chat_template=plain)["input_ids"]
                said = "".join(map(str, encoded["assistant_masks"]))
                chats.append({"messages": messages, "ids": encoded["input_ids"], "learned": said})
            rows.append({"kind": kind, "tokenizer": where, "template": TEMPLATES[kind], "chats": chats})
    (DATA / "conversations.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
