#!/usr/bin/env python3
"""Models, or settings, beside each other in Fathom itself: rates of each and their ratio to the first.

Each COMMAND is what follows `fathom bench`, as one argument. In each round every one runs once, so that good and bad minutes
fall on all of them.

Example: what looping layers gains one sequence
  fathom recur smollm2.gguf --loops 2 --share sequence --rank 0 --init lower --out 15x2
  bench/side_by_side.py --common "--dtype int8 --prompt 0 --generate 128" smollm2.gguf 15x2
Example: sequences at mixed loops in shared batches, beside all in step
  bench/side_by_side.py --common "--dtype int8 --prompt 0 --generate 64 --depth 128 --batch 32" 15x2 "15x2 --groups 2"
"""
import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def rates(program: Path, command: str) -> list:
    """Name and median rate of each test."""
    words = [str(program), "bench", *shlex.split(command), "--quiet", "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return [(test["test"], test["median"]) for test in json.loads(done.stdout)["tests"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", metavar="COMMAND")
    parser.add_argument("--common", default="", help="what to append to each")
    parser.add_argument("--fathom", type=Path, default=ROOT / "build/release/fathom")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = [[] for _ in options.commands]
    for number in range(options.rounds):
        for place, command in enumerate(options.commands):
            print(f"round {number + 1} of {options.rounds}: {command}", file=sys.stderr)
            found[place].append(rates(options.fathom, f"{command} {options.common}"))
    print("| model and settings | test | tok/s, min / median / max | times the first |\n|---|---|---|---|")
    for command, own in zip(options.commands, found):
        for index, (test, _) in enumerate(own[0]):
            values = sorted(tests[index][1] for tests in own)
            ratios = sorted(tests[index][1] / first[index][1] for tests, first in zip(own, found[0]))
            print(f"| {command} | {test} | {values[0]:.1f} / {statistics.median(values):.1f} / {values[-1]:.1f} | "
                  f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")


if __name__ == "__main__":
    main()
