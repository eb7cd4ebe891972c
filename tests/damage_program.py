#!/usr/bin/env python3
"""Runs `fathom` on damaged copies of every kind of file that it reads.

A run may succeed (exit code 0) or fail (1) with a message that names a file of the input. A signal, another
exit code, a message without a file, too much memory or too much time is a finding: it is printed with the
command, and the damaged input is kept. The copies are the same on every machine: seeded by kind and number.

  tests/damage_program.py build/release/fathom                   # 10,000 copies of each kind
  tests/damage_program.py build/release/fathom --count 500 --kind config gguf
  tests/damage_program.py build/release/fathom --kind gguf --first 4711 --count 1   # one again
"""

import argparse
import collections
import copy
import json
import os
import pathlib
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile

DATA = pathlib.Path(__file__).resolve().parent / "data"
EXTREMES = [0, 1, 0x7F, 0x80, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, 1 << 62, (1 << 63) - 1,
            1 << 63, (1 << 64) - 8, (1 << 64) - 1]
VALUES = [None, True, False, -1, 0, 1, 7, 0.5, 1e-300, 1e300, 99999999, 2**31, 2**63 - 1, 2**64 - 1, "", "x",
          "\u0000", "é" * 5000, [], {}, [[]], {"": None}, [1, 2, 3], ["a"], float("nan"), float("inf")]
LIBRARY = r"fathom: ([a-z]+ error|std::|basic_|vector|map|unordered_|sto[a-z]+|regex|\[json)"


def changed_bytes(data, rng):
    """One to three changes of bits, numbers, length or order; half of them in the first eighth (headers)."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = min(rng.randrange(len(data) // 8 + 1 if rng.random() < 0.5 else len(data) + 1), len(data))
        length = rng.randrange(40)
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            value, size = rng.choice(EXTREMES), rng.choice([1, 2, 4, 8])
            data[at:at + size] = struct.pack("<Q", value)[:size]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 5:
            data[at:at] = data[at:at + length]
        elif kind == 6:
            del data[at:at + length]
        else:  # another decimal number, where there is one
            digit = re.compile(rb"[0-9]+").search(data, at)
            if digit:
                number = rng.choice([b"0", b"-1", b"7", b"99999999", b"18446744073709551615", b"1e999", b"[", b"{"])
                data[digit.start():digit.end()] = number
    return bytes(data)


def places(value, found):
    """Every (container, key) below a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found.append((value, key))
        places(inner, found)
    return found


def changed_json(data, rng):
    """One to three values replaced, swapped, removed or nested deeply; still JSON."""
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        found = places(value, [])
        if not found:
            break
        container, key = rng.choice(found)
        kind = rng.randrange(6)
        if kind < 3:
            container[key] = copy.deepcopy(rng.choice(VALUES))  # its elements may be changed next
        elif kind == 3:
            other, other_key = rng.choice(found)
            container[key] = json.loads(json.dumps(other[other_key]))
        elif kind == 4:
            del container[key]
        else:
            container[key] = {"deep": 1}
            return json.dumps(value).replace('{"deep": 1}', "[" * 100000 + "]" * 100000).encode()
    return json.dumps(value).encode()


def damaged_json(data, rng):
    return changed_json(data, rng) if rng.random() < 0.7 else changed_bytes(data, rng)


def damaged_lines(data, rng):
    if rng.random() < 0.5:
        return changed_bytes(data, rng)
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = changed_json(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def damaged_safetensors(data, rng):
    """A header whose JSON changed, with its length put right, or bytes anywhere."""
    if rng.random() < 0.5:
        return changed_bytes(data, rng)
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = (changed_json if rng.random() < 0.7 else changed_bytes)(data[8:end], rng)
    return struct.pack("<Q", len(header)) + header + data[end:]


def zstd(data):
    """A zstd frame of one uncompressed block (RFC 8878), with which no library is needed."""
    return (struct.pack("<IBI", 0xFD2FB528, 0xA0, len(data)) +
            struct.pack("<I", 1 | len(data) << 3)[:3] + data)


TEXT = ("The whole of it was written down in one evening. " * 20 + "Größe, 12 %, <|im_end|> und 東京.\n") * 3
TOKENIZE = ["tokenize", "{model}", "--text", "Hello, wörld 123 <|im_end|> 東京 \u0301"]
LOGITS = ["logits", "{model}", "--ids", "1,2,3", "--out", "{scratch}/out.npy", "--threads", "1"]
GENERATE = ["generate", "{model}", "--prompt", "The", "--max-tokens", "1", "--threads", "1"]
EVAL = ["eval", "{model}", "--text", "{file}", "--context", "64", "--windows", "1", "--threads", "1"]


def models_folder(name):
    return DATA / "models" / name


def kinds(scratch):
    """Name: (function that damages, [(model, file, commands)])."""
    text = models_folder("llama-text")
    inputs = scratch / "inputs"
    inputs.mkdir()
    lines = "".join(json.dumps({"text": TEXT[i * 100:i * 100 + 300], "n": i}) + "\n" for i in range(8))
    for name, content in {"a.txt": TEXT.encode(), "b.jsonl": lines.encode(), "c.txt.zst": zstd(TEXT.encode()),
                          "d.jsonl.zst": zstd(lines.encode())}.items():
        (inputs / name).write_bytes(content)

    def measured(name):
        return (text, inputs / name, [EVAL])

    def task(name, file):
        return (text, DATA / "eval" / file, [["eval", "{model}", "--tasks", name, "--data", "{folder}",
                                              "--threads", "1"]])

    def inside(model, file, *commands):
        return (model, model / file, list(commands))

    inspect = ["inspect", "{model}", "--threads", "1"]
    recursive = scratch / "recursive"
    configured = [models_folder(name) for name in
                  ("llama-text", "gemma3", "llama-rope-yarn", "llama-rope-llama3", "qwen2-window", "qwen3-bias",
                   "gemma2", "mistral-window")] + [recursive, recursive]
    tokenizers = [DATA / "tokenizers" / name for name in ("gpt2", "llama2", "llama3", "qwen2", "smollm", "gemma")]
    chat = ["chat", "{model}", "--max-tokens", "1", "--threads", "1"]
    return {
        "config": (damaged_json, [inside(model, "config.json", LOGITS, inspect) for model in configured]),
        "safetensors": (damaged_safetensors,
                        [inside(model, "model.safetensors", LOGITS) for model in
                         (text, models_folder("llama-bf16"), recursive)]),
        "index": (damaged_json, [inside(models_folder("qwen2-window"), "model.safetensors.index.json", LOGITS)]),
        "gguf": (changed_bytes, [inside(models_folder(name), "model.gguf", LOGITS, GENERATE) for name in
                                 ("llama-text-gguf", "gemma3-gguf", "llama-rope-yarn-gguf", "qwen2-gguf")] +
                 [inside(DATA / "tokenizers" / "llama2", "tokenizer.gguf", TOKENIZE)]),
        "tokenizer": (damaged_json,
                      [inside(folder, "tokenizer.json", TOKENIZE) for folder in (text, *tokenizers)]),
        "tokenizer_config": (damaged_json, [inside(text, "tokenizer_config.json", GENERATE + ["--chat"])]),
        "generation_config": (damaged_json, [inside(text, "generation_config.json", chat, GENERATE)]),
        "text": (changed_bytes, [measured("a.txt"), measured("c.txt.zst"), measured("d.jsonl.zst")]),
        "jsonl": (damaged_lines, [measured("b.jsonl")]),
        "tasks": (damaged_lines, [task("piqa", "piqa.jsonl"), task("winogrande", "winogrande.jsonl"),
                                  task("lambada_openai", "lambada_openai.jsonl"),
                                  task("mmlu", "mmlu_test.jsonl"), task("mmlu", "mmlu_dev.jsonl")]),
    }


class Case:
    """A folder with links to everything a command reads but the one file that is damaged."""

    def __init__(self, folder, model, original):
        self.folder = folder
        self.original = original.read_bytes()
        folder.mkdir()
        self.file = folder / original.name
        names = {path.name: path for path in original.parent.iterdir() if path.is_file()}
        names.update({path.name: path for path in model.iterdir() if path.is_file()})
        for name, path in names.items():
            if name != original.name and not name.startswith("oracle"):
                (folder / name).symlink_to(path)
        self.model = str(self.file if original.suffix == ".gguf" else folder)

    def command(self, program, template):
        names = {"model": self.model, "file": self.file, "folder": self.folder, "scratch": self.folder}
        return [program] + [part.format(**names) if "{" in part else part for part in template]


def judge(command, case, limit_s):
    """What is wrong with the run (None: nothing), its exit code, and the message."""
    try:
        run = subprocess.run(command, input=b"Hello\n", capture_output=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"no end after {limit_s} s", None, ""
    message = run.stderr.decode(errors="replace").strip()
    message = message[message.rfind("fathom: "):]
    if run.returncode == 0:
        return None, 0, ""
    if run.returncode < 0:
        return f"signal {-run.returncode}", run.returncode, message
    if run.returncode != 1:
        return f"exit code {run.returncode}", run.returncode, message
    if str(case.folder) not in message:
        return "no file in the message", 1, message
    if re.match(LIBRARY, message):
        return "a library's own message", 1, message
    return None, 1, message


def damage_kind(name, damage, sources, options, scratch):
    cases = [(Case(scratch / f"{name}-{i}", model, file), commands)
             for i, (model, file, commands) in enumerate(sources)]
    codes, findings = collections.Counter(), 0
    messages = collections.Counter()
    for number in range(options.first, options.first + options.count):
        case, commands = cases[number % len(cases)]
        rng = random.Random(f"{name} {number}")
        content = damage(case.original, rng)
        case.file.unlink(missing_ok=True)
        case.file.write_bytes(content)
        command = case.command(options.program, commands[number // len(cases) % len(commands)])
        problem, code, message = judge(command, case, options.time_limit)
        codes[code] += 1
        messages[re.sub(r"[0-9]+", "#", message.replace(str(case.folder), ""))[:160]] += 1
        if problem:
            findings += 1
            kept = options.keep / f"{name}-{number}{case.file.suffix}"
            options.keep.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
            print(f"{name} {number}: {problem}: {message[:300]}\n  {' '.join(command)}\n  kept: {kept}", flush=True)
    print(f"{name}: {options.count} copies, {codes[0]} accepted, {codes[1]} refused, {findings} findings", flush=True)
    if options.messages:
        for message, count in messages.most_common():
            print(f"  {count:6} {message}")
    return findings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--count", type=int, default=10000, help="copies of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first copy")
    parser.add_argument("--kind", nargs="+", help="only these kinds")
    parser.add_argument("--memory", type=int, default=2048, help="MB of address space that a run may take")
    parser.add_argument("--time-limit", type=float, default=60, help="seconds that a run may take")
    parser.add_argument("--messages", action="store_true", help="print the distinct messages and how often they came")
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "fathom-damaged",
                        help="folder for the inputs of the findings")
    options = parser.parse_args()
    sys.setrecursionlimit(10000)
    os.environ["GOMP_SPINCOUNT"] = "1000"  # as src/cli/main.cpp sets it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (options.memory << 20, options.memory << 20))
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="fathom-damage-"))
    try:
        recur = ["recur", models_folder("llama-text"), "--loops", "3", "--share", "sequence", "--init", "average",
                 "--rank", "4", "--out", scratch / "recursive", "--quiet"]
        subprocess.run([options.program, *recur], check=True, stdout=subprocess.DEVNULL)
        chosen = {name: kind for name, kind in kinds(scratch).items() if not options.kind or name in options.kind}
        if not chosen:
            parser.error(f"there is no such kind; there are {', '.join(kinds(scratch))}")
        findings = sum(damage_kind(name, *kind, options, scratch) for name, kind in chosen.items())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
