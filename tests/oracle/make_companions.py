#!/usr/bin/env python3
"""Writes tests/data/tokenizers/companions.json: what transformers makes of tokens that tokenizer_config.json,
special_tokens_map.json and added_tokens.json name, for tests/text/companion_tokens_test.cpp. Run after make_tokenizers.py.
Needs transformers.

A list of {"about", "base", "files", "special", "texts"}: `files` stand beside the tokenizer.json of tests/data/tokenizers/
BASE, `special` are the special tokens that have names, `texts` are [text, ids, decoded, decoded without special tokens].
"""
import json
import pathlib
import tempfile

from transformers import PreTrainedTokenizerFast

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "tokenizers"
TEXTS = ["<x> <y>", "a <x>  b<y>c", "<|endoftext|> <x><|endoftext|>\n", "the <the> them the"]


def token(content, **flags):
    """As added_tokens_decoder has it."""
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True} | flags


def typed(content, **flags):
    """As transformers writes a token of a list or a name."""
    return token(content, **flags) | {"__type": "AddedToken"}


def mapped(content, **flags):
    """As special_tokens_map.json has it."""
    return {key: value for key, value in token(content, **flags).items() if key != "special"}


def config(**keys):
    return {"tokenizer_config.json": keys}


CASES = [
    ("added_tokens_decoder: the next ids in the order of its own", "gpt2", config(added_tokens_decoder={
        "900": token("<x>"), "500": token("<y>", special=False, normalized=True)}, pad_token="<z>")),
    ("added_tokens_decoder changes what tokenizer.json says", "gpt2", config(added_tokens_decoder={
        "420": token("<|endoftext|>", lstrip=True, rstrip=True, special=False)})),
    ("added_tokens_decoder with an id that another token has", "gpt2", config(added_tokens_decoder={"5": token("<x>")})),
    ("a token that has a name is special", "gpt2", config(pad_token="<x>", added_tokens_decoder={
        "421": token("<x>", special=False, normalized=True, lstrip=True)})),
    ("special_tokens_map.json is not read beside added_tokens_decoder", "gpt2", config(
        added_tokens_decoder={}, pad_token="<x>") | {"special_tokens_map.json": {"pad_token": "<y>"},
                                                     "added_tokens.json": {"<y>": 421}}),
    ("names of a new token, of a piece and of a known token", "gpt2", config(
        unk_token="<x>", bos_token="the", eos_token="<|endoftext|>", add_bos_token=True)),
    ("special_tokens_map.json wins over tokenizer_config.json", "gpt2", config(pad_token="<x>", image_token="<i>") | {
        "special_tokens_map.json": {"pad_token": "<y>", "eos_token": mapped("<the>", lstrip=True), "image_token": "<j>"}}),
    ("names beyond the usual come after those", "gpt2", config(
        image_token="<x>", extra_special_tokens={"boi_token": "<y>", "other": "<the>"}, eos_token="<|endoftext|>")),
    ("additional_special_tokens", "gpt2", config(additional_special_tokens=["<x>", "<|endoftext|>", "the"])),
    ("extra_special_tokens wins over additional_special_tokens", "gpt2", config(
        additional_special_tokens=["<x>"], extra_special_tokens=["<y>"])),
    ("objects in a list", "gpt2", config(extra_special_tokens=[
        typed("<x>", lstrip=True), typed("<y>", special=False, normalized=True, single_word=True)])),
    ("an object with a name", "gpt2", config(pad_token=typed("<x>", rstrip=True, special=False))),
    ("lists of special_tokens_map.json", "gpt2", config(extra_special_tokens=["<x>"]) | {
        "special_tokens_map.json": {"extra_special_tokens": ["<y>", "<x>"], "additional_special_tokens": ["<the>"]}}),
    ("additional_special_tokens of special_tokens_map.json", "gpt2", {
        "special_tokens_map.json": {"additional_special_tokens": ["<y>"], "bos_token": "<x>"}}),
    ("tokenizer_config.json's additional_special_tokens win", "gpt2", config(additional_special_tokens=["<x>"]) | {
        "special_tokens_map.json": {"additional_special_tokens": ["<y>"]}}),
    ("added_tokens.json: special if another file says so; tokenizer.json wins", "gpt2", config(pad_token="<x>") | {
        "added_tokens.json": {"<y>": 430, "<x>": 421, "the": 7, "<|endoftext|>": 420}}),
    ("empty and absent ones are none", "gpt2", config(pad_token="", bos_token=None, extra_special_tokens=None)),
    ("matched in normalised text", "llama2", config(added_tokens_decoder={
        "520": token("<x>", special=False, normalized=True), "521": token("<y>", special=False, single_word=True)})),
]


def case(about, base, files):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tokenizer.json").write_bytes((DATA / base / "tokenizer.json").read_bytes())
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    texts = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        texts.append([text, ids, tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)])
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    return {"about": about, "base": base, "files": files, "special": special, "texts": texts}


def main():
    lines = ",\n".join(json.dumps(case(*each), separators=(",", ":")) for each in CASES)
    (DATA / "companions.json").write_text("[" + lines + "]\n")


if __name__ == "__main__":
    main()
