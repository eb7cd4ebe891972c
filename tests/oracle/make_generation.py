#!/usr/bin/env python3
"""Writes tests/data/generation.json: what transformers generates greedily with the tiny model llama-text, for
tests/runtime/generate_test.cpp. Run after make_models.py. Needs torch and transformers.
"""
import json
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

DATA = Path(__file__).resolve().parent.parent / "data"
MODEL = "llama-text"
PROMPTS = ["the", "Hello, world!\n", "def f(x):\n    return x", "naïve 日本"]


def main():
    folder = DATA / "models" / MODEL
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    cases = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        for penalty in (1.0, 1.5):
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=40, repetition_penalty=penalty,
                                 pad_token_id=0)[0][inputs.input_ids.shape[1]:].tolist()
            cases.append({"prompt": prompt, "repetition_penalty": penalty, "ids": ids,
                          "text": tokenizer.decode(ids, skip_special_tokens=True)})
    (DATA / "generation.json").write_text(json.dumps({"model": MODEL, "cases": cases}, ensure_ascii=False, indent=1) + "\n",
                                          encoding="utf-8")


if __name__ == "__main__":
    main()
