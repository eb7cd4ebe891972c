#!/usr/bin/env python3
"""Training beside PyTorch on the same machine: whole steps (forward, backward, AdamW) of SmolLM2-135M, tokens a second of each
and their ratio.

Rounds are interleaved: in each, Fathom and every form of the peer run one after another, never two at once, so that good and
bad minutes fall on all of them. A run's rate is the median of its steps without the first ones, in which memory is new and
torch.compile compiles. The ratio is to the best form of PyTorch, of eager and compiled in bf16 (autocast) and float32; its spread is
that of the rounds. After the first round only the best form of PyTorch runs again.

The cached work is distillation with the teacher's answers from the disk (--teacher-cache), as from a text's second epoch on, beside
the peer with its teacher.

The sparing work is plain training with --gradient-checkpointing, beside the peer without.

The recursive work is beside Fathom's own plain training instead: 15 layers, each visited twice, must not cost more than 30.

Set-up: any Python with torch (python3 -m venv DIR && DIR/bin/pip install torch), which torch.compile also needs g++ for; the
program with training, the model and a text.

Example:
  bench/against_torch/against_torch.py --torch DIR/bin/python --text models/debian-faq.txt --works plain,distil
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKIPPED = 2  # steps at a run's beginning
# What the program is asked for beside the model, and what it is compared with.
FORMS = ["eager bf16", "compile bf16", "eager float32", "compile float32"]
WORKS = {"plain": ([], FORMS), "distil": (["--teacher", "self"], FORMS), "cached": (["--teacher", "self"], FORMS),
         "sparing": (["--gradient-checkpointing"], FORMS), "recursive": ([], ["untied"])}
# What holds PyTorch's libraries to an instruction set, as FATHOM_ISA does the program.
HELD = {"avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}


def measured(command: list[str]) -> tuple[str, int]:
    """Output and the most memory that was resident, in MB, of the command and what it started."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}:\n{text[-2000:]}")
    return text, usage.ru_maxrss // 1024


def fathom(options: argparse.Namespace, work: str) -> tuple[list[float], int]:
    """Seconds of each step, from the run's metrics."""
    step = options.batch * options.context
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if work == "recursive":
            model = f"{folder}/recursive"
            measured([options.fathom, "recur", options.model, "--loops", "2", "--share", "cycle", "--init", "stepwise", "--rank", "0",
                      "--out", model])
        command = [options.fathom, "train", model, "--text", options.text,
                   "--tokens", str(step * options.steps), "--batch-tokens", str(step), "--context", str(options.context),
                   "--micro-batch", str(options.micro_batch), *WORKS[work][0]]
        if work == "cached":
            command += ["--teacher-cache", f"{folder}/answers"]
            measured([*command, "--out", f"{folder}/filling"])
        _, memory = measured([*command, "--out", f"{folder}/out"])
        lines = Path(f"{folder}/out.run/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines], memory


def peer(options: argparse.Namespace, work: str, form: str) -> tuple[list[float], int]:
    if form == "untied":
        return fathom(options, "plain")
    command = [options.torch, str(HERE / "torch_steps.py"), "--batch", str(options.batch), "--context", str(options.context),
               "--steps", str(options.steps)]
    command += ["--compile"] if "compile" in form else []
    command += ["--float32"] if "float32" in form else []
    command += ["--distil"] if work in ("distil", "cached") else []
    text, memory = measured(command)
    return json.loads(text.splitlines()[-1])["seconds"], memory


def rate(options: argparse.Namespace, seconds: list[float]) -> float:
    return options.batch * options.context / statistics.median(seconds[SKIPPED:])


def compare(options: argparse.Namespace, work: str) -> dict:
    forms = WORKS[work][1]
    rates: dict[str, list[float]] = {name: [] for name in ["fathom", *forms]}
    memory: dict[str, int] = {}
    for turn in range(options.rounds):
        tried = forms if turn == 0 else [max(forms, key=lambda form: rates[form][0])]
        for name in ["fathom", *tried]:
            seconds, most = fathom(options, work) if name == "fathom" else peer(options, work, name)
            rates[name].append(rate(options, seconds))
            memory[name] = max(memory.get(name, 0), most)
            print(f"{work} round {turn + 1}: {name} {rates[name][-1]:.0f} tok/s, {most} MB", file=sys.stderr, flush=True)
    best = max(forms, key=lambda form: rates[form][0])
    ratios = [own / other for own, other in zip(rates["fathom"], rates[best])]
    return {"work": work, "rates": rates, "memory_mb": memory, "best_peer": best, "ratios": ratios,
            "ratio": statistics.median(ratios), "memory_ratio": memory["fathom"] / memory[best]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, help="a Python that has torch")
    parser.add_argument("--fathom", default=str(ROOT / "build/release/fathom"))
    parser.add_argument("--model", default=str(ROOT / "models/smollm2-135m-instruct.gguf"))
    parser.add_argument("--text", required=True, help="what Fathom trains on; the peer takes random tokens")
    parser.add_argument("--works", default="plain", help=f"of {', '.join(WORKS)}, with commas between")
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--micro-batch", type=int, default=4, help="of Fathom, which adds up gradients")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8, help=f"of a run, of which {SKIPPED} do not count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write everything here")
    parser.add_argument("--isa", choices=HELD, help="hold Fathom and PyTorch to an instruction set")
    options = parser.parse_args()
    if options.isa:
        os.environ |= HELD[options.isa] | {"FATHOM_ISA": options.isa}
    unknown = [work for work in options.works.split(",") if work not in WORKS]
    if unknown or options.steps <= SKIPPED:
        parser.error(f"no such work: {unknown[0]}" if unknown else f"--steps must be more than {SKIPPED}")
    results = [compare(options, work) for work in options.works.split(",")]
    for result in results:
        rates = result["rates"]
        print(f"{result['work']}: Fathom {statistics.median(rates['fathom']):.0f} tok/s, {result['best_peer']} "
              f"{statistics.median(rates[result['best_peer']]):.0f}: {result['ratio']:.2f} times "
              f"({min(result['ratios']):.2f} to {max(result['ratios']):.2f}); memory {result['memory_ratio']:.2f} of it")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


main()
