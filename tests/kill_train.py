#!/usr/bin/env python3
"""Kills a training run at random and resumes it, again and again, until it ends; the model must be the same to
the last bit as that of a run that nothing happened to.

    tests/kill_train.py build/release/fathom --kills 20
"""
import argparse
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

DATA = pathlib.Path(__file__).parent / "data"


def write_text(folder, generator):
    words = [f"word{i}" for i in range(50)]
    for name in ("a", "b"):
        with open(folder / f"{name}.jsonl", "w") as out:
            for _ in range(400):
                text = " ".join(generator.choices(words, k=generator.randint(1, 60)))
                out.write(f'{{"text": "{text}"}}\n')
    (folder / "held-out.txt").write_text(" ".join(generator.choices(words, k=200)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    program, generator = str(options.program.resolve()), random.Random(options.seed)

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_text(folder, generator)

        def command(out):
            return [program, "train", str(DATA / "models" / "llama-text"), "--out", str(folder / out),
                    "--text", str(folder / "a.jsonl"), str(folder / "b.jsonl"), "--mix", "3,1",
                    "--eval-text", str(folder / "held-out.txt"), "--eval-every", "20", "--within-documents",
                    "--tokens", str(128 * options.steps), "--batch-tokens", "128", "--context", "64",
                    "--exits", "all", "--exit-curriculum", "gradual", "--layer-dropout", "0.3",
                    "--layer-dropout-schedule", "exponential", "--checkpoint-every", "7", "--threads", "1", "--quiet"]

        start = time.monotonic()
        subprocess.run(command("whole"), check=True, stdout=subprocess.DEVNULL)
        duration = time.monotonic() - start
        # Deaths are spread over the run: each life lasts a share of it, and some time for starting.
        metrics = folder / "killed.run" / "metrics.jsonl"
        kills, done, next_command = 0, 0, command("killed")
        while True:
            life = generator.uniform(0, 1.9 * duration / options.kills + 0.3)
            process = subprocess.Popen(next_command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                errors = process.communicate(timeout=life if kills < options.kills else None)[1]
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
                print(f"kill {kills} after {life:.2f} s, {done} steps")
            else:
                if process.returncode != 0:
                    sys.exit(f"ended with {process.returncode}: {errors}")
                break
            if (folder / "killed.run" / "run.toml").exists():
                next_command = [program, "train", "--resume", str(folder / "killed.run")]
        same = all((folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()
                   for name in ("model.safetensors",))
        best = (folder / "killed.run/best/model.safetensors").read_bytes()
        same &= best == (folder / "whole.run/best/model.safetensors").read_bytes()
        print(f"{kills} kills in a run of {options.steps} steps: the models are {'the same' if same else 'DIFFERENT'}")
        sys.exit(0 if same and kills == options.kills else 1)


if __name__ == "__main__":
    main()
