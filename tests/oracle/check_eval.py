"""The figures of `fathom eval` on a real model, by Hugging Face transformers and lm-evaluation-harness (lm_eval).

    python tests/oracle/check_eval.py MODEL [--tokenizer DIR] [--text FILE --context 512 --windows N]
                                      [--tasks a,b --data DIR --limit N --samples FILE --write FILE]

MODEL is a directory or a GGUF file. With --samples, the file that `fathom eval --samples` wrote for the same tasks and
limit, the largest difference of a log-likelihood is printed too; --write writes down all that was computed on tasks:
tests/data/eval/expected.json is

    python tests/oracle/check_eval.py tests/data/models/llama-text --tasks piqa,winogrande,lambada_openai,mmlu,openbookqa \\
        --data tests/data/eval --write tests/data/eval/expected.json
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(path, **options):
    """Arguments of from_pretrained for a directory or a GGUF file."""
    path = Path(path)
    return dict(pretrained_model_name_or_path=path.parent, gguf_file=path.name, **options) if path.is_file() else dict(
        pretrained_model_name_or_path=path, **options)


@torch.no_grad()
def perplexity(model, tokenizer, text, context, windows):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    bos = without_end(tokenizer)("").input_ids[:1]
    nll = tokens = 0
    for start in range(0, min(len(ids) // context, windows or len(ids)) * context, context):
        window = torch.tensor([bos + ids[start:start + context]])
        logits = model(window).logits[0, :-1].float()
        nll += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        tokens += len(logits)
    print(f"perplexity {math.exp(nll / tokens):.4f} nll {nll / tokens:.6f} tokens {tokens}")


def without_end(tokenizer):
    """Takes away what the tokenizer puts behind a text, which lm-eval would count as part of a context."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    processor = backend["post_processor"] or {}
    for part in processor.get("processors", [processor]):
        if part.get("type") == "TemplateProcessing":
            while "SpecialToken" in part["single"][-1]:
                part["single"].pop()
    tokenizer.backend_tokenizer.post_processor = Tokenizer.from_str(json.dumps(backend)).post_processor
    return tokenizer


def log_likelihoods_of(lm, pairs):
    """(log-likelihood, whether greedy decoding would write it) by lm-eval itself."""
    return lm.loglikelihood([Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
                             for i, pair in enumerate(pairs)], disable_tqdm=True)


def mmlu_question(row):
    options = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"]))
    return row["question"].strip() + options + "\nAnswer:"


def requests(task, data, limit):
    """For each example: (context, continuation) pairs, gold, and the choices (None where lengths do not differ)."""
    def rows(name):
        return [json.loads(line) for line in open(Path(data) / f"{name}.jsonl", encoding="utf-8")]
    if task == "mmlu":
        shots = {}
        for row in rows("mmlu_dev"):
            shots.setdefault(row["subject"], []).append(f"{mmlu_question(row)} {'ABCD'[row['gold']]}\n\n")
        for row in rows("mmlu_test")[:limit]:
            subject = row["subject"].replace("_", " ")
            head = f"The following are multiple choice questions (with answers) about {subject}."
            context = head + "\n\n" + "".join(shots[row["subject"]]) + mmlu_question(row)
            yield [(context, " " + letter) for letter in "ABCD"], row["gold"], None
        return
    for row in rows(task)[:limit]:
        if "contexts" in row:
            yield [(context, " " + row["continuation"]) for context in row["contexts"]], row["gold"], None
        elif "continuation" in row:
            yield [(row["context"], " " + row["continuation"])], None, None
        else:
            yield [(row["query"], " " + choice) for choice in row["choices"]], row["gold"], row["choices"]


def best_by(lengths, values):
    return int(np.argmax(np.array(values) / np.array(lengths, float)))


def run_task(lm, task, data, limit):
    acc, acc_norm, acc_bytes, log_likelihoods = 0, 0, 0, []
    for pairs, gold, choices in requests(task, data, limit):
        scores = log_likelihoods_of(lm, pairs)
        values = [score for score, _ in scores]
        right = scores[0][1] if gold is None else values.index(max(values)) == gold
        acc += right
        acc_norm += right if choices is None else best_by([len(choice) for choice in choices], values) == gold
        acc_bytes += right if choices is None else best_by([len(choice.encode()) for choice in choices], values) == gold
        log_likelihoods.append(values)
    count = len(log_likelihoods)
    result = {"acc": acc / count, "acc_norm": acc_norm / count, "acc_bytes": acc_bytes / count,
              "log_likelihoods": log_likelihoods}
    if task == "lambada_openai":
        result["perplexity"] = math.exp(-sum(values[0] for values in log_likelihoods) / count)
    return result


def largest_difference(log_likelihoods, samples):
    return max(abs(a - b) for ours, theirs in zip(log_likelihoods, samples, strict=True)
               for a, b in zip(ours, theirs, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name in ("--tokenizer", "--text", "--tasks", "--data", "--samples", "--write"):
        parser.add_argument(name)
    for name, value in (("--context", 512), ("--windows", 0), ("--limit", None)):
        parser.add_argument(name, type=int, default=value)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(**load(arguments.tokenizer or arguments.model))
    model = AutoModelForCausalLM.from_pretrained(**load(arguments.model, dtype=torch.float32)).eval()
    if arguments.text:
        text = Path(arguments.text).read_bytes().decode()
        perplexity(model, tokenizer, text, arguments.context, arguments.windows)
    results = {}
    if arguments.tasks:
        lm = HFLM(pretrained=model, tokenizer=without_end(tokenizer), batch_size=1, device="cpu")
    for task in arguments.tasks.split(",") if arguments.tasks else []:
        results[task] = run_task(lm, task, arguments.data, arguments.limit)
        print(task, {key: value for key, value in results[task].items() if key != "log_likelihoods"}, flush=True)
    if arguments.samples:
        samples = [json.loads(line) for line in open(arguments.samples)]
        for task, result in results.items():
            theirs = [sample["log_likelihoods"] for sample in samples if sample["task"] == task]
            print(task, f"largest difference {largest_difference(result['log_likelihoods'], theirs):.2e}")
    if arguments.write:
        Path(arguments.write).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
