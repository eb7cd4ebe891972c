#!/usr/bin/env python3
"""docs/weight-types.md: what each weight type of the runtime costs and brings on a real model and text.

For every type: `fathom eval` gives the perplexity, and the divergence of its predictions from those in bf16; `fathom bench`
the bytes of the packed weights and the speed of a prompt and of generation. The same for the types of keys and values. Let
the machine be idle meanwhile.

Example:
  bench/weight_types.py build/release/fathom models/smollm2 wiki.valid.txt --model-name SmolLM2-135M --text-name "WikiText-2 validation"
"""
import argparse
import json
import subprocess
from datetime import date
from pathlib import Path

DTYPES = ("f32", "bf16", "int8", "int8g32", "int6g32", "int4", "int4g32")
REFERENCE = "bf16"
PROMPT, GENERATE = 512, 128
KV_TYPES = ("bf16", "int8")
DEPTH, AFTER_DEPTH = 4096, 32

PAGE = """# Weight types

What `--dtype` costs and brings: {model_name} ({parameters:.1f}M parameters) on {text_name}.

| type | weights | of bf16 | perplexity | KL divergence from bf16 | same top token | prompt, tokens/s | generation, tokens/s |
|---|--:|--:|--:|--:|--:|--:|--:|
{rows}

- **f32**: weights and arithmetic in float32, whatever the file holds.
- **bf16**: weights and the inputs of matrix products rounded to bfloat16, sums in float32.
- **int8**: weights as 8-bit integers with one scale for each output channel; inputs of matrix products become 8-bit integers with one
  scale a token, when they are known; sums are exact.
- **int8g32**: weights as 8-bit integers with one scale (f16) for each 32 of an output channel; inputs become 8-bit integers with one scale
  for each 32 of a token. Each group's sum is exact and joins the others in float32.
- **int6g32**: the same with 6-bit integers, 6.5 bits a weight.
- **int4**: weights as 4-bit integers in groups of 32. A group's scale is that of its output channel times a whole number from -15 to 15,
  which makes 4.25 bits a weight; inputs as for int8. The head, which decides between tokens that are close to each other, keeps 8 bits.
- **int4g32**: weights as 4-bit integers with one scale (f16) for each 32; inputs as for int8g32. The head is int8g32.

**native** takes each matrix as a file has it: Q4_0, Q4_1, Q4_K, Q2_K and Q3_K in the layout of int4g32, Q5_0, Q5_1, Q5_K and Q6_K in that of
int6g32, Q8_0 in that of int8g32, with the file's own integers, scales and minima, in groups of 16 where the type has those. Nothing is
rounded but the inputs. Scales of the K-quants' sub-blocks stay what they are, an f16 for 256 inputs times small whole numbers, so that Q4_0,
Q4_1, Q4_K and Q6_K take no more memory than in the file. Keys' and values' matrices of another type than the queries' are packed apart;
gate and up take the layout that holds both, with scales in float32 where f16 does not hold them. Matrices of floats become bf16 where that holds each of their values, as it does where a
bf16 model was stored as F16, and float32 otherwise. `auto` is native for quantised files, where a model is run as it is.

Adapters of a recursive model stay in bf16 beside integer layers.
[src/kernels/quantise.h](../src/kernels/quantise.h) says what is rounded to what, [src/runtime/weights.cpp](../src/runtime/weights.cpp) which
tensor gets which type.

What `--kv` costs and brings. By default keys and values are kept in float32 with f32, in bf16 with all other types of weights.

| keys and values | bytes a token | of bf16 | perplexity | KL divergence from bf16 | same top token | generation after {depth:,} tokens, tokens/s |
|---|--:|--:|--:|--:|--:|--:|
{kv_rows}

- **bf16**: keys and values rounded to bfloat16.
- **int8**: keys and values as 8-bit integers, with one float32 scale for each position's key of a head and one for its value.
  Where tiles (AMX) compute, queries and the softmax's weights become 8-bit integers as well, when they are known.

Quality is that of bf16 weights, speed that of int8 weights, beside which reading keys and values takes most of the time.

**Quality** is measured over {tokens:,} predictions in the first {windows} windows of {context} tokens. Perplexity is exp of the mean negative
log-probability of the text's tokens. The divergence is the mean of KL(bf16 || type) between the two distributions of the next token, in nats a
token; the same top token is how often both find the same token most probable.

**Size** is that of the weights as they lie in memory for the products, the head among them. Rows of the embedding are looked up in the model's
file and not counted.

**Speed** is of a prompt of {prompt} tokens at once and of {generate} tokens one by one: mean ± standard deviation of {repetitions} runs, with
{threads} threads and the instruction set `{isa}` (`FATHOM_ISA` in [HACKING.md](../HACKING.md)).

Made on {day} by
```
{command}
```
"""


def figures(fathom: str, verb: str, model: str, *arguments: str) -> dict:
    command = [fathom, verb, model, *arguments, "--quiet", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def speed(bench: dict, phase: str) -> str:
    test = next(test for test in bench["tests"] if test["phase"] == phase)
    return f"{test['tokens_per_second']:,.0f} ± {test['deviation']:.0f}"


def row(dtype: str, quality: dict, bench: dict, reference: dict) -> str:
    size, divergence = bench["weight_bytes"], quality["divergence"]
    cells = [dtype, f"{size / 1e6:.1f} MB", f"{size / reference['weight_bytes']:.0%}", f"{quality['perplexity']:.3f}",
             f"{divergence['kl']:.5f}" if divergence["kl"] else "0", f"{divergence['same_top']:.2%}",
             speed(bench, "prompt"), speed(bench, "generate")]
    return f"| {' | '.join(cells)} |"


def kv_row(kv: str, quality: dict, bench: dict, reference: dict) -> str:
    size, divergence = bench["kv_bytes_per_token"], quality["divergence"]
    cells = [kv, f"{size:,}", f"{size / reference['kv_bytes_per_token']:.0%}", f"{quality['perplexity']:.3f}",
             f"{divergence['kl']:.5f}" if divergence["kl"] else "0", f"{divergence['same_top']:.2%}", speed(bench, "generate")]
    return f"| {' | '.join(cells)} |"


def shown(path: str) -> str:
    """The page is about the program, not about where somebody's files are."""
    return Path(path).name if Path(path).is_absolute() else path


def page(options: argparse.Namespace) -> str:
    quality = {dtype: figures(options.fathom, "eval", options.model, "--dtype", dtype, "--against", REFERENCE, "--text",
                              options.text, "--windows", str(options.windows)) for dtype in DTYPES}
    bench = {dtype: figures(options.fathom, "bench", options.model, "--dtype", dtype, "--prompt", str(PROMPT), "--generate",
                            str(GENERATE)) for dtype in DTYPES}
    kv_quality = {kv: figures(options.fathom, "eval", options.model, "--dtype", REFERENCE, "--kv", kv, "--against", REFERENCE,
                              "--text", options.text, "--windows", str(options.windows)) for kv in KV_TYPES}
    kv_bench = {kv: figures(options.fathom, "bench", options.model, "--dtype", "int8", "--kv", kv, "--prompt", "0", "--generate",
                            str(AFTER_DEPTH), "--depth", str(DEPTH)) for kv in KV_TYPES}
    command = (f"bench/weight_types.py {shown(options.fathom)} {shown(options.model)} {shown(options.text)} --windows "
               f"{options.windows} --model-name \"{options.model_name}\" --text-name \"{options.text_name}\"")
    common, text = bench[REFERENCE], quality[REFERENCE]
    if text["tokens"] < options.windows * (text["context"] - 1):
        raise SystemExit(f"{options.text}: has fewer than {options.windows} windows of {text['context']} tokens; give a smaller --windows")
    return PAGE.format(model_name=options.model_name, text_name=options.text_name, parameters=common["parameters"] / 1e6,
                       rows="\n".join(row(dtype, quality[dtype], bench[dtype], common) for dtype in DTYPES),
                       kv_rows="\n".join(kv_row(kv, kv_quality[kv], kv_bench[kv], kv_bench[REFERENCE]) for kv in KV_TYPES),
                       depth=DEPTH, tokens=text["tokens"], windows=options.windows, context=text["context"], prompt=PROMPT,
                       generate=GENERATE, repetitions=common["repetitions"], threads=common["threads"], isa=common["isa"],
                       day=date.today(), command=command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fathom", help="the program")
    parser.add_argument("model", help="a directory or GGUF file")
    parser.add_argument("text", help="a text file")
    parser.add_argument("--windows", type=int, default=40, help="how many windows of the text (default: 40)")
    parser.add_argument("--model-name", help="what the page calls the model (default: its file's name)")
    parser.add_argument("--text-name", help="what the page calls the text (default: its file's name)")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "weight-types.md",
                        help="the page (default: docs/weight-types.md)")
    options = parser.parse_args()
    options.model_name = options.model_name or Path(options.model).name
    options.text_name = options.text_name or Path(options.text).name
    options.out.write_text(page(options), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
