"""vllm_bench.py MODEL REPETITIONS WORKS: tokens a second of vLLM, run by against_peers.py with vLLM's own Python.

WORKS is a JSON list of {"name", "phase", "tokens", "depth", "batch"} as in `fathom bench`; a line {"name", "rates"} is
printed for each. Random ids, greedy, no prefix cache. vLLM does not say when a prompt ends, so a generation's time is that
of prompt and tokens less that of the prompt and its first token.
"""
import json
import random
import sys
import time

from vllm import LLM, SamplingParams


def main(model: str, repetitions: int, works: list) -> None:
    random.seed(1)
    longest = max(work["depth"] + work["tokens"] for work in works) + 64
    llm = LLM(model, dtype="bfloat16", max_model_len=longest, enable_prefix_caching=False, distributed_executor_backend="uni",
              max_num_seqs=max(work["batch"] for work in works), max_num_batched_tokens=max(4608, longest))

    def seconds(prompts: list, new: int) -> float:
        options = SamplingParams(max_tokens=new, min_tokens=new, temperature=0, ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], options, use_tqdm=False)
        elapsed = time.perf_counter() - start
        assert all(len(output.outputs[0].token_ids) == new for output in outputs)
        return elapsed

    def rate(work: dict) -> float:
        def prompts(length: int) -> list:
            return [[random.randrange(1000, 40000) for _ in range(length)] for _ in range(work["batch"])]
        if work["phase"] == "prompt":
            return work["batch"] * work["tokens"] / seconds(prompts(work["tokens"]), 1)
        context = prompts(max(8, work["depth"]))
        first = seconds(context, 1)
        return work["batch"] * work["tokens"] / (seconds(context, work["tokens"] + 1) - first)

    for work in works:
        rate(work)
        print(json.dumps({"name": work["name"], "rates": [rate(work) for _ in range(repetitions)]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
