"""What llama.cpp (llama-cpp-python) or transformers make of a model that `fathom export` wrote, against `fathom` itself.

    python tests/oracle/check_export.py FATHOM MODEL EXPORTED [--base DIR] [--text FILE --context 512 --windows N]

FATHOM is the program, MODEL what was exported, EXPORTED a GGUF file or a directory (with --base, a directory of PEFT's
adapters for that model). Prints the largest difference of logits and the Kullback-Leibler divergence of the
distributions, whether greedy continuations and the ids of awkward texts are equal, and with --text the perplexities
over the same windows. Of a GGUF file with quantised matrices the logits are compared with what `fathom` makes of the
file itself, too.
"""

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np

PROMPTS = ["The capital of France is", "def fibonacci(n):\n", "Once upon a time, there was a little"]
AWKWARD = ["", " ", "   ", "\n", "\n\n\n", "Hello, world!", " leading", "trailing ", "tabs\tand\r\nlines", "1234567890", "3.14159",
           "don't you'll WE'RE", "naïve café", "Zürich", "日本語のテキスト", "한국어", "👩‍👩‍👧 🚀", "مرحبا", "e\u0301", "a  b   c    d", "x" * 70,
           "<|im_start|>user\nHi<|im_end|>", "<s>", "ﬁne\u00a0print", "C++20: std::vector<int> v{1, 2};", "$1,000.50 (50%)"]
RANDOM_IDS = 64  # for models without a tokenizer


def run(*arguments, text=None):
    return subprocess.run([str(a) for a in arguments], check=True, capture_output=True, text=True, input=text).stdout


class Fathom:
    def __init__(self, program, model):
        self.program, self.model = program, model

    def encode(self, text, special=False):
        return json.loads(run(self.program, "tokenize", self.model, *([] if special else ["--no-special"]), text=text))

    def logits(self, ids):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "logits.npy"
            run(self.program, "logits", self.model, "--ids", ",".join(map(str, ids)), "--dtype", "f32", "--out", out)
            return np.load(out)

    def perplexity(self, text, context, windows):
        return json.loads(run(self.program, "eval", self.model, "--text", text, "--context", context, "--windows", windows,
                              "--dtype", "f32", "--kv", "auto", "--json", "-", "-q"))["perplexity"]


class LlamaCpp:
    def __init__(self, path, context):
        import llama_cpp
        self.cpp = llama_cpp
        self.model = llama_cpp.Llama(str(path), n_ctx=context, n_batch=context, n_ubatch=context, logits_all=True, verbose=False, n_threads=2,
                                     type_k=0, type_v=0, flash_attn=False)  # keys and values in float32

    def encode(self, text, special=False):
        return self.model.tokenize(text.encode(), add_bos=special, special=True)

    def logits(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return np.array(self.model.scores[: len(ids)], dtype=np.float32)

    def greedy(self, ids, count):
        whole, new = list(ids), list(ids)
        self.model.reset()
        for _ in range(count):
            self.model.eval(new)
            new = [int(self.model.scores[len(whole) - 1].argmax())]
            whole += new
        return whole


class Transformers:
    def __init__(self, path, base):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(base or path, dtype=torch.float32, attn_implementation="eager").eval()
        if base:
            from peft import PeftModel
            self.model = PeftModel.from_pretrained(self.model, path)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(base or path)
        except Exception as error:  # a model of weights alone
            print("no tokenizer:", str(error).splitlines()[0])

    def encode(self, text, special=False):
        return self.tokenizer(text, add_special_tokens=special).input_ids

    def logits(self, ids):
        with self.torch.no_grad():
            return self.model(self.torch.tensor([ids])).logits[0].numpy()

    def greedy(self, ids, count):
        return self.model.generate(input_ids=self.torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count, do_sample=False,
                                   eos_token_id=None, repetition_penalty=1.0)[0].tolist()


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def compare_logits(what, ours, theirs):
    p, q = log_softmax(ours), log_softmax(theirs)
    divergence = (np.exp(p) * (p - q)).sum(axis=-1).mean()
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    print(f"{what}: largest difference of logits {np.abs(ours - theirs).max():.2e} (of up to {np.abs(ours).max():.1f}), "
          f"divergence {divergence:.2e}, same first choice {same:.1%}")


def perplexity(model, ids, bos, context, windows):
    nll = tokens = 0
    for start in range(0, min(len(ids) // context, windows or len(ids)) * context, context):
        window = bos + ids[start:start + context]
        scores = log_softmax(model.logits(window)[:-1])
        nll -= scores[np.arange(len(window) - 1), window[1:]].sum()
        tokens += len(window) - 1
    return math.exp(nll / tokens)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fathom")
    parser.add_argument("model", type=Path)
    parser.add_argument("exported", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=24)
    options = parser.parse_args()

    fathom = Fathom(options.fathom, options.model)
    gguf = options.exported.is_file()
    other = LlamaCpp(options.exported, options.context + 1) if gguf else Transformers(options.exported, options.base)
    has_tokenizer = subprocess.run([options.fathom, "tokenize", options.model, "--text=a"], capture_output=True).returncode == 0
    if not has_tokenizer:
        vocabulary = fathom.logits([0]).shape[1]
        ids = np.random.default_rng(0).integers(0, vocabulary, RANDOM_IDS).tolist()
        compare_logits("random ids", fathom.logits(ids), other.logits(ids))
        return

    different = [text for text in AWKWARD if fathom.encode(text) != list(other.encode(text))]
    print(f"awkward texts with the same ids: {len(AWKWARD) - len(different)} of {len(AWKWARD)}", *map(repr, different))
    for prompt in PROMPTS:
        ids = fathom.encode(prompt, special=True)
        assert ids == list(other.encode(prompt, special=True)), (ids, other.encode(prompt, special=True))
        whole = other.greedy(ids, options.tokens)
        compare_logits(repr(prompt), fathom.logits(whole), other.logits(whole))
        if gguf:
            compare_logits("  the file itself in fathom", Fathom(options.fathom, options.exported).logits(whole), other.logits(whole))
        choices = fathom.logits(whole[:-1]).argmax(-1)[len(ids) - 1:].tolist()
        print(f"  greedy text {'the same' if choices == whole[len(ids):] else 'differs'}")
    if options.text:
        ours = fathom.perplexity(options.text, options.context, options.windows)
        text = options.text.read_text()
        ids = fathom.encode(text) if len(text) < 100_000 else json.loads(
            run(options.fathom, "tokenize", options.model, "--file", options.text, "--no-special"))
        bos = fathom.encode("", special=True)[:1]
        theirs = perplexity(other, ids, bos, options.context, options.windows)
        print(f"perplexity: fathom {ours:.4f}, exported {theirs:.4f} ({theirs / ours - 1:+.3%})")


if __name__ == "__main__":
    main()
