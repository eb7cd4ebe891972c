#!/usr/bin/env python3
"""Fathom beside llama.cpp and vLLM on the same model and machine: rates of each and their ratio.

In each round every engine runs every line, one process after another and never two at once, line by line (vLLM, which takes
a minute to start, all lines at the end); rounds are repeated, so that good and bad minutes fall on all of them. In the first round a peer tries each of its settings for a line, in
the later ones its best. setup.sh installs the peers; one that is not there is left out and named.

Example:
  bench/against_peers/setup.sh ~/peers
  bench/against_peers/against_peers.py --peers ~/peers --lines prefill512-bf16,decode1-bf16 --json ratios.json
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What Fathom computes in, and from which of the peers' files; q8_0 and q4_0 are GGUF's own integers, as llama.cpp has them.
DTYPES = {"bf16": ("bf16", "bf16"), "int8": ("int8", "bf16"), "int4": ("int4", "bf16"), "q8_0": ("native", "model-Q8_0.gguf"),
          "q4_0": ("native", "model-Q4_0.gguf")}
PROMPT = "The capital of France is"


@dataclass(frozen=True)
class Work:
    """`tokens` for each of `batch` sequences that hold `depth` tokens already. Phase "start" is the time until a fresh
    process has written its first token, "memory" what is resident at most while it generates."""
    name: str
    phase: str
    tokens: int = 0
    depth: int = 0
    batch: int = 1

    @property
    def smaller_is_better(self) -> bool:
        return self.phase in ("start", "memory")

    @property
    def unit(self) -> str:
        return {"start": "s", "memory": "MB"}.get(self.phase, "tok/s")


WORKS = {work.name: work for work in (
    Work("prefill512", "prompt", 512),
    Work("prefill4096", "prompt", 4096),
    Work("decode1", "generate", 128),
    Work("decode16", "generate", 64, 128, 16),
    Work("decode32", "generate", 64, 128, 32),
    Work("decode128", "generate", 64, 128, 128),
    Work("depth4096", "generate", 32, 4096),
    Work("start", "start"),
    Work("memory32", "memory", 64, 128, 32),
)}


@dataclass(frozen=True)
class Line:
    work: Work
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.work.name}-{self.dtype}"


class Failure(Exception):
    """A process failed; the message is the end of what it said."""


def run(command: list, env: dict | None = None) -> tuple[str, float]:
    """What a process writes, and the most memory that it had, in MB."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=os.environ | (env or {}))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            raise Failure(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{err.read()[-2000:]}")
        return out.read(), usage.ru_maxrss / 1024


def first_byte(command: list) -> float:
    """Seconds until a fresh process writes anything to its standard output."""
    start = time.perf_counter()
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        byte = process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    if not byte or process.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: exit code {process.returncode}, wrote {byte!r}")
    return seconds


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


class Fathom:
    name = "fathom"
    lines_together = False

    def __init__(self, options):
        self.program, self.options = Path(options.fathom), options

    def missing(self) -> str | None:
        for path, remedy in ((self.program, "make build"), (self.options.peers / "models", "setup.sh")):
            if not path.exists():
                return f"{path} ({remedy})"

    def settings(self, line: Line) -> list[str]:
        return ["default"]

    def measure(self, lines: list[tuple[Line, str]]) -> dict:
        return {line: self.samples(line) for line, _ in lines}

    def samples(self, line: Line) -> list[float]:
        work, options = line.work, self.options
        dtype, model = DTYPES[line.dtype]
        model = options.peers / "models" / model
        common = ["--dtype", dtype, "--threads", options.threads, "--quiet"]
        if work.phase != "start":
            common += ["--kv", options.kv]
        environment = {"FATHOM_ISA": options.isa} if options.isa else {}
        if work.phase == "start":
            command = [self.program, "generate", model, "--prompt", PROMPT, "--max-tokens", 1, *common]
            return [first_byte(command) for _ in range(options.repetitions)]
        prompt, generate = (work.tokens, 0) if work.phase == "prompt" else (0, work.tokens)
        repetitions = 1 if work.phase == "memory" else options.repetitions
        out, _ = run([self.program, "bench", model, "--prompt", prompt, "--generate", generate, "--depth", work.depth,
                      "--batch", work.batch, "--repetitions", repetitions, "--json", "-", *common], environment)
        test = json.loads(out)["tests"][0]
        return [test["peak_memory"] / 2**20] if work.phase == "memory" else test["samples"]


class LlamaCpp:
    """A setting is flash attention and the rows of a micro-batch: with flash attention prompts are faster, without it large
    batches and long contexts."""
    name = "llama.cpp"
    lines_together = False
    types = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0", "q8_0": "Q8_0", "q4_0": "Q4_0"}

    def __init__(self, options):
        self.programs = options.peers / ("llama/bin-" + options.isa if options.isa else "llama/bin")
        self.models, self.options = options.peers / "models", options

    def missing(self) -> str | None:
        path = self.programs / "llama-bench"
        return None if path.exists() else str(path)

    def settings(self, line: Line) -> list[str]:
        if line.work.phase == "start":
            return ["fa on"]
        return [f"fa {fa} ub {ub}" for fa in ("on", "off") for ub in ((512, 2048) if line.work.tokens > 512 else (512,))]

    def measure(self, lines: list[tuple[Line, str]]) -> dict:
        return {line: self.samples(line, setting) for line, setting in lines}

    def samples(self, line: Line, setting: str) -> list[float]:
        work, options = line.work, self.options
        words = setting.split()
        common = ["-m", self.models / f"model-{self.types[line.dtype]}.gguf", "-t", options.threads, "-fa", words[1]]
        if work.phase == "start":
            command = [self.programs / "llama-completion", *common, "-p", PROMPT, "-n", 1, "-no-cnv", "--no-warmup",
                       "--no-display-prompt", "--temp", 0]
            return [first_byte(command) for _ in range(options.repetitions)]
        common += ["-ub", words[3]]
        if work.batch == 1:
            prompt, generate = (work.tokens, 0) if work.phase == "prompt" else (0, work.tokens)
            out, _ = run([self.programs / "llama-bench", *common, "-p", prompt, "-n", generate, "-d", work.depth,
                          "-r", options.repetitions, "-o", "jsonl"])
            return json_lines(out)[0]["samples_ts"]
        repetitions = 1 if work.phase == "memory" else options.repetitions
        out, memory = run([self.programs / "llama-batched-bench", *common, "-tb", options.threads, "-b", 2048,
                           "-c", work.batch * (work.depth + work.tokens), "-npp", work.depth, "-ntg", work.tokens,
                           "-npl", ",".join([str(work.batch)] * repetitions), "--output-format", "jsonl"])
        return [memory] if work.phase == "memory" else [test["speed_tg"] for test in json_lines(out)]


class Vllm:
    """It takes a minute to start, so one process runs all lines of a model. There are no 4-bit weights here that are faster
    than its W8A8, which stands in for them."""
    name = "vLLM"
    lines_together = True
    types = {"bf16": "bf16", "int8": "w8a8", "int4": "w8a8", "q8_0": "w8a8", "q4_0": "w8a8"}

    def __init__(self, options):
        self.home, self.models, self.options = options.peers / "vllm", options.peers / "models", options

    def missing(self) -> str | None:
        path = self.home / "bin/vllm"
        if self.options.isa:
            return f"way to hold it to {self.options.isa}"
        return None if path.exists() else str(path)

    def settings(self, line: Line) -> list[str]:
        return [] if line.work.smaller_is_better else ["all cores bound"]

    def environment(self) -> dict:
        libraries = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
        preload = [row.split()[-1] for row in libraries.splitlines() if "libtcmalloc_minimal.so.4" in row][:1]
        openmp = self.home / "lib/libiomp5.so"
        return {"LD_PRELOAD": ":".join(preload + [str(openmp)] * openmp.exists()), "HF_HUB_OFFLINE": "1",
                "VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_CPU_OMP_THREADS_BIND": f"0-{self.options.threads - 1}",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}

    def measure(self, lines: list[tuple[Line, str]]) -> dict:
        found = {}
        for model in sorted({self.types[line.dtype] for line, _ in lines}):
            own = [line for line, _ in lines if self.types[line.dtype] == model]
            works = [asdict(work) for work in {line.work.name: line.work for line in own}.values()]
            out, _ = run([self.home / "bin/python", HERE / "vllm_bench.py", self.models / model, self.options.repetitions,
                          json.dumps(works)], self.environment())
            rates = {row["name"]: row["rates"] for row in json_lines(out)}
            found |= {line: rates[line.work.name] for line in own}
        return found


class Samples:
    """By line, engine and setting: a list of samples for each round."""

    def __init__(self):
        self.rounds = {}

    def add(self, line, engine, setting, values):
        self.rounds.setdefault((line, engine, setting), []).append(values)

    def all(self, line, engine, setting) -> list[float]:
        return sorted(value for values in self.rounds.get((line, engine, setting), []) for value in values)

    def best(self, line, engine, settings) -> str | None:
        tried = [setting for setting in settings if self.all(line, engine, setting)]
        choose = min if line.work.smaller_is_better else max
        return choose(tried, key=lambda setting: statistics.median(self.all(line, engine, setting)), default=None)

    def ratio(self, line, engine, setting) -> list[float]:
        """How many times better Fathom is: smallest round, all samples, largest round."""
        def of(ours, theirs):
            quotient = statistics.median(ours) / statistics.median(theirs)
            return 1 / quotient if line.work.smaller_is_better else quotient
        ours, theirs = self.rounds[line, Fathom.name, "default"], self.rounds[line, engine, setting]
        by_round = [of(a, b) for a, b in zip(ours, theirs)]
        whole = of(self.all(line, Fathom.name, "default"), self.all(line, engine, setting))
        return [min(by_round), whole, max(by_round)]


def three(values: list[float]) -> list[float]:
    return [min(values), statistics.median(values), max(values)]


def results(samples: Samples, lines: list[Line], peers: list) -> list[dict]:
    rows = []
    for line in lines:
        ours = samples.all(line, Fathom.name, "default")
        for peer in peers:
            setting = samples.best(line, peer.name, peer.settings(line))
            if ours and setting:
                rows.append({"line": line.name, "unit": line.work.unit, "fathom": three(ours), "peer": peer.name,
                             "setting": setting, "theirs": three(samples.all(line, peer.name, setting)),
                             "ratio": samples.ratio(line, peer.name, setting)})
    return rows


def markdown(rows: list[dict]) -> str:
    def figures(values, form):
        return " / ".join(form.format(value) for value in values)
    text = "| line | fathom | peer | its figures | unit | times better |\n|---|---|---|---|---|---|\n"
    for row in rows:
        form = "{:.3f}" if row["unit"] == "s" else "{:.1f}"
        text += (f"| {row['line']} | {figures(row['fathom'], form)} | {row['peer']}, {row['setting']} | "
                 f"{figures(row['theirs'], form)} | {row['unit']} | {row['ratio'][1]:.2f} "
                 f"({row['ratio'][0]:.2f} to {row['ratio'][2]:.2f}) |\n")
    return text + "\nmin / median / max of all samples; the ratio is that of the medians, with those of single rounds.\n"


def lines_of(text: str) -> list[Line]:
    lines = []
    for name in text.split(","):
        work, _, dtype = name.partition("-")
        if work not in WORKS or dtype not in DTYPES:
            raise argparse.ArgumentTypeError(f"{name}: expected WORK-DTYPE of {', '.join(WORKS)} and {', '.join(DTYPES)}")
        lines.append(Line(WORKS[work], dtype))
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the directory that setup.sh filled")
    parser.add_argument("--fathom", default=HERE.parent.parent / "build/release/fathom", help="the program")
    parser.add_argument("--lines", type=lines_of, default=",".join(f"{work}-bf16" for work in WORKS),
                        help=f"WORK-DTYPE,...: {', '.join(WORKS)}; {', '.join(DTYPES)}")
    parser.add_argument("--isa", choices=("avx512bf16", "avx2"), help="hold Fathom and llama.cpp to an instruction set "
                        "(setup.sh with LEVELS)")
    parser.add_argument("--kv", default="auto", choices=("auto", "bf16", "int8"), help="Fathom's keys and values")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=3, help="in a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--without", default="", help="engines to leave out: llama.cpp,vLLM")
    parser.add_argument("--json", type=Path, help="write the figures, anew after each round")
    options = parser.parse_args()
    options.peers = options.peers.resolve()
    return options


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def installed(options: argparse.Namespace) -> list:
    engines = []
    for engine in (Fathom(options), LlamaCpp(options), Vllm(options)):
        missing = engine.missing()
        if missing:
            note(f"{engine.name} is left out: there is no {missing}")
        elif engine.name not in options.without.split(","):
            engines.append(engine)
    return engines


def tasks_of(engine, lines: list[Line], samples: Samples) -> list[tuple[Line, str]]:
    """Every setting that is not known yet to be slower than another."""
    tasks = []
    for line in lines:
        settings = engine.settings(line)
        best = samples.best(line, engine.name, settings)
        tasks += [(line, setting) for setting in ([best] if best else settings)]
    return tasks


def measure(engine, tasks: list[tuple[Line, str]], samples: Samples) -> None:
    """A failure is told and costs these tasks, not the comparison."""
    if not tasks:
        return
    try:
        found = engine.measure(tasks)
    except Failure as failure:
        note(f"{engine.name}: {failure}")
        return
    for line, setting in tasks:
        samples.add(line, engine.name, setting, found[line])
        note(f"{line.name}  {engine.name}, {setting}: {statistics.median(found[line]):.3f} {line.work.unit}")


def main() -> int:
    options = parse()
    engines = installed(options)
    if not engines or engines[0].name != Fathom.name:
        return 1
    samples, rows = Samples(), []
    for number in range(1, options.rounds + 1):
        note(f"round {number} of {options.rounds}")
        for line in options.lines:
            for engine in engines:
                if not engine.lines_together:
                    for task in tasks_of(engine, [line], samples):
                        measure(engine, [task], samples)
        for engine in engines:
            if engine.lines_together:
                measure(engine, tasks_of(engine, options.lines, samples), samples)
        rows = results(samples, options.lines, engines[1:])
        if options.json:
            options.json.write_text(json.dumps({"threads": options.threads, "rounds": number, "lines": rows}, indent=1))
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
