#!/usr/bin/env python3
"""Writes tests/data/eval/queries.json: log-likelihoods by lm-evaluation-harness's own HFLM for contexts and continuations that
do not join smoothly, with the tiny model llama-text, for tests/eval/choices_test.cpp. Run after make_models.py. Needs lm_eval.

A list of {"before", "context_length", "queries"}: the token that the post-processor puts before a text (or null), the most
tokens of a sequence, and {"context", "continuations", "log_likelihoods", "greedy"}. lm-eval takes an end token behind a text
for part of the context; Fathom leaves it out, so for it, too, what lm-eval computes without that token is right.
"""
import json
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

DATA = Path(__file__).resolve().parent.parent / "data"
MODEL = DATA / "models" / "llama-text"
LONG = "The river is wide and the water is cold. The child looked at the mother because the mother"
QUERIES = [
    ("The river is", [" wide", " cold and deep", " a"]),
    ("The river is ", ["wide", "cold"]),
    ("The river is \n\t\u00a0\u2003", ["wide", " wide"]),
    ("The river\x1c\x1f\x85\u3000", ["is", "was"]),
    ("The river\u200b", ["is", " was"]),  # which is no white space
    ("", ["The river", " is", "<|endoftext|>The river", "<|im_end|>."]),
    ("<|endoftext|>The river", [" is", "s are"]),
    ("The ri", ["vers are", "de is"]),
]
LONG_QUERIES = [(LONG, [" was wide", " a", " is the water"]), ("The river", [" is", " was"]), (LONG, [" b", " c"])]


def language_model(before, length):
    backend = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    if before:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{before} $A", special_tokens=[(before, backend.token_to_id(before))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|im_end|>")
    model = AutoModelForCausalLM.from_pretrained(MODEL).eval()
    return HFLM(pretrained=model, tokenizer=tokenizer, max_length=length, batch_size=1, device="cpu")


def scores(lm, context, continuations):
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=(context, continuation), idx=i)
                for i, continuation in enumerate(continuations)]
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    return {"context": context, "continuations": continuations, "log_likelihoods": [round(score, 5) for score, _ in answers],
            "greedy": [greedy for _, greedy in answers]}


def main():
    cases = []
    for before in (None, "<|endoftext|>", "<|im_start|>"):
        for length, queries in ((256, QUERIES), (16, LONG_QUERIES)):
            lm = language_model(before, length)
            cases.append({"before": before, "context_length": length,
                          "queries": [scores(lm, *query) for query in queries]})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (DATA / "eval" / "queries.json").write_text("[" + lines + "]\n")


if __name__ == "__main__":
    main()
