"""How fast are a library set's products on a CPU that is not here? Estimated; where the CPU is here, measured too.

usage: python -m tests.bench.estimate SET_FOLDER... [--ghz 3.0] [--cores 4] [--model NAME]

Reads the built libggml-cpu: llvm-objdump gives each product's function by its symbol, its loops are the backward
branches, llvm-mca counts the cycles of the innermost one with products in it and of the rest of its block. Products per
cycle, ours and ggml's own beside each other; from those and a model's shapes the milliseconds of a step and the prompt
tokens per second, with what reading the weights takes beside them.

Knows nothing of caches (weights in the first one), barriers, attention, norms and quantizing rows: a step takes longer.
Where it was held against a time (Zen 3, one core): see tests/bench/README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LLVM_VERSIONS = ("-19", "-20", "-21", "-18", "-17", "-16", "")  # the first found; 19 is the one that figures are from

# Products of one instruction. vpmaddwd is one where nothing else is: in other loops it only adds up or scales.
INSTRUCTIONS = {"smmla": 32, "sdot": 16, "vpmaddubsw": 32, "vpdpbusd": 32}
LAST_RESORT = {"vpmaddwd": 16}


@dataclass(frozen=True)
class Cpu:
    """`limit`: products a cycle if there were nothing else, by LLVM's own model. gb_s_core: memory by fair share."""

    triple: str
    name: str
    attributes: str
    limit: int
    gb_s_core: float


CPUS = {
    "arm64-a1": Cpu("aarch64", "neoverse-n1", "+dotprod,+fullfp16", 32, 2.56),
    "arm64-a2": Cpu("aarch64", "ampere1b", "+i8mm,+dotprod,+fullfp16", 64, 1.6),
    "x86-64-native": Cpu("x86_64", "native", "", 64, 10.0),
}

# Our instruction sets: rows of a group, columns of a panel.
SETS = {"dotprod": (1, 4), "i8mm": (2, 4), "avx2": (1, 8), "avx2_wide": (1, 8), "vnni_256": (1, 8), "vnni_512": (1, 16)}
VALUES = {"q4_0": 32, "q8_0": 32, "q4_K": 256, "q6_K": 256}

# ggml's own: function -> format, rows and columns of its block
GGML = {
    "ggml_gemm_q4_K_8x8_q8_K": ("q4_K", 4, 8),
    "ggml_gemm_q4_K_8x4_q8_K": ("q4_K", 4, 8),
    "ggml_gemm_q6_K_8x8_q8_K": ("q6_K", 4, 8),
    "ggml_gemm_q6_K_8x4_q8_K": ("q6_K", 4, 8),
    "ggml_gemm_q8_0_4x8_q8_0": ("q8_0", 4, 4),
    "ggml_gemm_q8_0_4x4_q8_0": ("q8_0", 4, 4),
    "ggml_gemm_q4_0_4x8_q8_0": ("q4_0", 16, 4),
    "ggml_gemm_q4_0_4x4_q8_0": ("q4_0", 16, 4),
}

Speeds = dict[str, dict[int, float]]  # products a cycle by format and rows of a tile

BYTES = {"q4_0": 18 / 32, "q8_0": 34 / 32, "q4_K": 144 / 256, "q6_K": 210 / 256}  # of a weight


@dataclass(frozen=True)
class Model:
    layers: int
    width: int
    kv_width: int
    hidden: int
    words: int

    def weights(self, is_mixture: bool) -> dict[str, float]:
        """Format -> how many; a mixture is llama.cpp's Q4_K_M: half of the layers' v and down in Q6_K, the head too."""
        v, down = self.width * self.kv_width, self.width * self.hidden
        rest = self.layers * (2 * self.width**2 + v + 2 * down)
        if not is_mixture:
            return {"q4_0": rest + self.layers * (v + down), "head q6_K": self.width * self.words}
        half = self.layers / 2 * (v + down)
        return {"q4_K": rest + half, "q6_K": half, "head q6_K": self.width * self.words}


MODELS = {
    "TinyLlama-1.1B": Model(22, 2048, 256, 5632, 32000),
    "SmolLM3-3B": Model(36, 2048, 512, 11008, 128256),
    "Qwen3-4B": Model(36, 2560, 1024, 9728, 151936),
}


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str  # as an assembler reads it

    @property
    def name(self) -> str:
        return self.text.split()[0]

    def jump(self) -> int | None:
        found = re.match(r"(?:b|b\.\w+|cbn?z|tbn?z|j\w+)\s+(?:.*,\s*)?(?:#|\$)?0x([0-9a-f]+)$", self.text)
        return int(found[1], 16) if found else None


@dataclass(frozen=True)
class Kernel:
    """`products` in a block of the weights of a tile of `rows`."""

    owner: str
    format: str
    rows: int
    products: int
    symbol: str


class NoLoop(Exception):
    """The function is not what is expected of a product."""


def tool(name: str) -> str:
    for version in LLVM_VERSIONS:
        if found := shutil.which(name + version):
            return found
    raise SystemExit(f"error: no {name} here\n  try: apt-get install llvm-19")


def output(*command: str, text: str = "") -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def read_kernels(names: str) -> list[Kernel]:
    """From lines "mangled name, tab, name": our tiles and ggml's gemm functions."""
    kernels = []
    for line in names.splitlines():
        symbol, _, name = line.partition("\t")
        if found := re.match(r"void product::(\w+)<product::(\w+)>::tile<(\d+)>\(", name):
            rows, columns = SETS[found[2]]
            n_rows = int(found[3]) * rows
            kernels.append(Kernel("ours", found[1], n_rows, n_rows * columns * VALUES[found[1]], symbol))
        elif name in GGML:
            form, n_rows, columns = GGML[name]
            kernels.append(Kernel("ggml", form, n_rows, n_rows * columns * VALUES[form], symbol))
    return sorted(kernels, key=lambda each: (each.format, each.owner, each.rows))


def parse(disassembly: str) -> list[Instruction]:
    found = re.findall(r"^\s*([0-9a-f]+):\s+(\S.*)$", disassembly, re.M)
    return [Instruction(int(at, 16), re.sub(r"\s*(<.*>|//.*|# .*)$", "", text).strip()) for at, text in found]


def count_products(code: Sequence[Instruction]) -> int:
    for table in (INSTRUCTIONS, LAST_RESORT):
        found = [table[each.name] * (2 if "zmm" in each.text else 1) for each in code if each.name in table]
        if found:
            return sum(found)
    return 0


def find_loops(code: Sequence[Instruction]) -> tuple[list[Instruction], list[Instruction]]:
    """The innermost loop with most products, and the rest of the loop around it that goes from block to block: [] if
    there is none. Raises NoLoop."""
    loops = []
    for i, each in enumerate(code):
        target = each.jump()
        if target is not None and code[0].address <= target <= each.address:
            first = next(k for k, other in enumerate(code) if other.address == target)
            loops.append((first, i))
    busy = [loop for loop in loops if count_products(code[loop[0] : loop[1] + 1])]
    inner = [a for a in busy if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in busy)]
    if not inner:
        raise NoLoop("no loop with products in it")
    first, last = max(inner, key=lambda loop: count_products(code[loop[0] : loop[1] + 1]))
    around = [loop for loop in busy if loop[0] <= first and last <= loop[1] and loop != (first, last)]
    if not around:
        return list(code[first : last + 1]), []
    start, end = min(around, key=lambda loop: loop[1] - loop[0])
    return list(code[first : last + 1]), [*code[start:first], *code[last + 1 : end + 1]]


def cycles(code: Sequence[Instruction], cpu: Cpu) -> float:
    """Of one pass, in the long run. Jumps are left out: they are predicted."""
    text = "\n".join(each.text for each in code if each.jump() is None)
    if not text:
        return 0.0
    attributes = [f"-mattr={cpu.attributes}"] if cpu.attributes else []
    command = (tool("llvm-mca"), f"-mtriple={cpu.triple}", f"-mcpu={cpu.name}", "-iterations=100", *attributes)
    said = output(*command, text=text)
    return int(re.search(r"Total Cycles:\s+(\d+)", said)[1]) / 100


def estimate(kernel: Kernel, code: Sequence[Instruction], cpu: Cpu) -> float:
    """Products a cycle. Raises NoLoop."""
    inner, rest = find_loops(code)
    n_inner = count_products(inner)
    if kernel.format in ("q4_0", "q8_0"):  # a pass is a block, whatever is around it
        return n_inner / cycles(inner, cpu)
    passes = kernel.products / n_inner
    if passes != int(passes):
        raise NoLoop(f"{kernel.products} products in a block, {n_inner} in its loop")
    return kernel.products / (passes * cycles(inner, cpu) + cycles(rest, cpu))


def measure(library: Path, form: str, rows: int) -> float:
    """Seconds of one product by 1024 x 2048 weights on one thread: the least of many, since others use the machine."""
    import numpy as np

    from tests import kernels

    ggml = kernels.Ggml(library.parent)
    kind = {"q4_0": kernels.Q4_0, "q8_0": kernels.Q8_0, "q4_K": kernels.Q4_K, "q6_K": kernels.Q6_K}[form]
    context, apart = (ggml.ggml_init(kernels._InitParams(kernels.MEMORY_BYTES, None, empty)) for empty in (False, True))
    weights = ggml.ggml_new_tensor_4d(apart, kind, 2048, 1024, 1, 1)
    buffer = ggml.ggml_backend_alloc_ctx_tensors_from_buft(apart, ggml.buffer_kinds[-1])
    raw = bytes(1024 * ggml.ggml_row_size(kind, 2048))
    ggml.ggml_backend_tensor_set(weights, ctypes.cast(raw, ctypes.c_void_p), 0, len(raw))
    values = ggml.ggml_new_tensor_4d(context, kernels.F32, 2048, rows, 1, 1)
    ggml.fill(values, np.random.default_rng(20261127).standard_normal((rows, 2048), np.float32))
    graph = ggml.ggml_new_graph(context)
    ggml.ggml_build_forward_expand(graph, ggml.ggml_mul_mat(context, weights, values))
    best = float("inf")
    for _ in range(200):
        began = time.perf_counter()
        ggml.compute(context, graph, 1)
        best = min(best, time.perf_counter() - began)
    ggml.ggml_backend_buffer_free(buffer)
    for each in (context, apart):
        ggml.ggml_free(each)
    return best


def speed_at(speeds: dict[int, float], rows: int) -> float:
    """Products a cycle for so many rows: of tiles as even as can be; a tile's own padding counts as time."""
    most = max(speeds)
    n_tiles = -(-rows // most)
    size = next(each for each in sorted(speeds) if each >= -(-rows // n_tiles))
    return speeds[size] * rows / (n_tiles * size)


def step_ms(model: Model, is_mixture: bool, speeds: Speeds, rows: int, ghz: float, cores: int) -> float:
    total = 0.0
    for name, n_weights in model.weights(is_mixture).items():
        total += n_weights * rows / speed_at(speeds[name.split()[-1]], rows)
    return total / ghz / cores / 1e6


def prompt_tokens_s(model: Model, is_mixture: bool, speeds: Speeds, ghz: float) -> float:
    """Of one core; only the last row of a prompt needs the head."""
    layers = {name: n for name, n in model.weights(is_mixture).items() if not name.startswith("head")}
    return ghz * 1e9 / sum(n / max(speeds[name].values()) for name, n in layers.items())


def report(folder: Path, args: argparse.Namespace) -> None:
    about = folder / "set.json"
    name = json.loads(about.read_text())["name"] if about.exists() else folder.name
    cpu = CPUS.get(name.removesuffix("-blas"))
    if not cpu:
        raise SystemExit(f"error: {folder}: {name} is none of {', '.join(CPUS)}")
    library = next(folder.glob("libggml-cpu.so*"))
    mangled = [line.split()[-1] for line in output(tool("llvm-nm"), "-D", "--defined-only", str(library)).splitlines()]
    plain = output(tool("llvm-cxxfilt"), text="\n".join(mangled)).splitlines()
    kernels = read_kernels("\n".join(f"{a}\t{b}" for a, b in zip(mangled, plain, strict=True)))
    print(f"\n## {name}: {cpu.name} by {output(tool('llvm-mca'), '--version').split('version ')[1].split()[0]}\n")
    print("| weights | rows of a tile | whose | products/cycle, estimated | of the limit, estimated |")
    print("|---|---|---|---|---|")
    disassemble = (tool("llvm-objdump"), "-d", "--no-show-raw-insn", str(library))
    found: dict[tuple[str, str, int], float] = {}
    for kernel in kernels:
        key = (kernel.format, kernel.owner, kernel.rows)
        try:
            speed = estimate(kernel, parse(output(*disassemble, f"--disassemble-symbols={kernel.symbol}")), cpu)
        except NoLoop as error:
            if kernel.owner == "ours":  # ggml's for other instruction sets are plain C here
                raise SystemExit(f"error: {library}: {kernel.symbol}: {error}") from None
            continue
        found[key] = max(found.get(key, 0.0), speed)  # ggml has one for each instruction set, and takes the faster
    for (form, owner, rows), speed in found.items():
        print(f"| {form} | {rows} | {owner} | {speed:.1f} | {speed / cpu.limit:.0%} |")
    speeds: Speeds = {}
    for (form, owner, rows), speed in found.items():
        if owner == "ours":
            speeds.setdefault(form, {})[rows] = speed
    if not speeds:
        raise SystemExit(f"error: {library} has no products of ours: was it built without scripts/libllama/patch.py?")
    print_model(speeds, cpu, args)
    if cpu.triple == platform.machine():
        print_measured(library, speeds, args)


def print_model(speeds: Speeds, cpu: Cpu, args: argparse.Namespace) -> None:
    model = MODELS[args.model]
    print(
        f"\n{args.model}, {args.cores} cores at {args.ghz} GHz; products only. Reading: {cpu.gb_s_core} GB/s a core.\n"
    )
    counts = (1, 4, 8, 16, 32)
    heads = [f"{n} rows, ms, estimated" for n in counts]
    print(f"| format | {' | '.join(heads)} | reading, ms, estimated | prompt tokens/s a core, estimated |")
    print("|---" * (len(counts) + 3) + "|")
    for label, is_mixture in (("Q4_0", False), ("Q4_K_M", True)):
        steps = [step_ms(model, is_mixture, speeds, n, args.ghz, args.cores) for n in counts]
        n_bytes = sum(n * BYTES[name.split()[-1]] for name, n in model.weights(is_mixture).items())
        reading = n_bytes / (cpu.gb_s_core * args.cores) / 1e6
        prompt = prompt_tokens_s(model, is_mixture, speeds, args.ghz)
        print(f"| {label} | {' | '.join(f'{ms:.0f}' for ms in steps)} | {reading:.0f} | {prompt:.1f} |")


def print_measured(library: Path, speeds: Speeds, args: argparse.Namespace) -> None:
    print("\nOne thread, 2048 x 1024 weights, quantizing the rows included:\n")
    print("| weights | rows | ms, estimated | ms, measured | measured/estimated |")
    print("|---|---|---|---|---|")
    for form in speeds:
        for rows in (1, 4, 8, 32):
            estimated = rows * 2048 * 1024 / speed_at(speeds[form], rows) / args.ghz / 1e6
            measured = measure(library, form, rows) * 1e3
            ratio = measured / estimated
            note = "" if abs(ratio - 1) <= 0.3 else ": loads and neighbours are not in the model"
            print(f"| {form} | {rows} | {estimated:.3f} | {measured:.3f} | {ratio:.2f}{note} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="library sets, or folders of sets")
    parser.add_argument("--ghz", type=float, default=3.0, help="clock of the cores (default %(default)s)")
    parser.add_argument("--cores", type=int, default=4, help="of a node (default %(default)s: 2 OCPU of A2)")
    parser.add_argument("--model", choices=MODELS, default="SmolLM3-3B", help="whose shapes (default %(default)s)")
    args = parser.parse_args()
    for folder in args.folders:
        sets = [folder] if list(folder.glob("libggml-cpu.so*")) else sorted(p for p in folder.iterdir() if p.is_dir())
        for each in sets:
            if not each.name.endswith("-blas"):  # the same libggml-cpu
                report(each, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
