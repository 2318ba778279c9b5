"""Our products by quantized weights (libllama/kernels/quantized_product.h) are their formula on every instruction set.

products.cpp is compiled for each with the pinned tree's formats and reference code. What this CPU has runs as it is;
the others run under QEMU's user mode, as the CPU that has no more than the set. VNNI, which QEMU lacks, is simulated by
SIMDe.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ROOT / "scripts/libllama/kernels"
REFERENCE = ("ggml-quants.c", "ggml-cpu/quants.c")  # ggml's formats, and its dot products in plain C


@dataclass(frozen=True)
class InstructionSet:
    """A struct of product_<header>.h; `needs` are its flags as /proc/cpuinfo spells them."""

    name: str
    machine: str
    march: str
    emulated: str
    needs: frozenset[str]
    header: str = ""
    of_8: str = ""
    is_simulated: bool = False  # by SIMDe, where neither this CPU nor QEMU need have it

    @property
    def definitions(self) -> list[str]:
        of_8 = [f"-DISA_8={self.of_8}"] if self.of_8 else []
        of_8 += ["-include", ROOT / "tests/libllama/simde.h"] if self.is_simulated else []
        return [f"-DISA={self.name}", f"-DHEADER=product_{self.header or self.name}.h", *of_8]


SETS = [
    InstructionSet("avx2", "x86_64", "x86-64-v3", "max", frozenset({"avx2", "fma", "f16c"}), of_8="avx2_wide"),
    *(
        InstructionSet(name, "x86_64", "x86-64-v3", "max", frozenset({"avx2"}), header="vnni", is_simulated=True)
        for name in ("vnni_256", "vnni_512")
    ),
    InstructionSet("dotprod", "aarch64", "armv8.2-a+dotprod+fp16", "neoverse-n1", frozenset({"asimddp"})),
    InstructionSet("i8mm", "aarch64", "armv8.6-a+dotprod+fp16+i8mm+bf16", "max,sve=off", frozenset({"i8mm"})),
]


def cpu_features() -> set[str]:
    return set(re.search(r"^(?:flags|Features)\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.M)[1].split())


def require(tool: str, package: str) -> str:
    """Its path. A developer may lack it, continuous integration may not."""
    path = shutil.which(tool)
    if not path:
        if os.environ.get("CI"):
            pytest.fail(f"{tool} is missing: apt-get install {package}")
        pytest.skip(f"{tool} is missing: apt-get install {package}")
    return path


@pytest.fixture(scope="module")
def ggml() -> Path:
    sdist = subprocess.check_output([ROOT / "scripts/libllama/fetch_sdist.sh"], text=True).strip()
    (found,) = Path(sdist).glob("*/vendor/llama.cpp/ggml")
    return found


class Builder:
    """Makes the program for an instruction set; ggml's reference code once for each machine."""

    def __init__(self, ggml: Path, folder: Path) -> None:
        self.folder = folder
        self.source = ggml / "src"
        self.includes = [f"-I{path}" for path in (ggml / "include", self.source, self.source / "ggml-cpu")]

    def compiler(self, machine: str, language: str) -> str:
        tool = {"C": "gcc", "C++": "g++"}[language]
        if machine == os.uname().machine:
            return require(tool, "g++")
        return require(f"{machine}-linux-gnu-{tool}", f"g++-{machine.replace('_', '-')}-linux-gnu")

    def reference(self, machine: str) -> list[Path]:
        made = []
        for name in REFERENCE:
            made.append(self.folder / f"{machine}-{name.replace('/', '-')}.o")
            if not made[-1].exists():
                command = [self.compiler(machine, "C"), "-O1", "-w", "-ffunction-sections", *self.includes]
                subprocess.run([*command, "-c", self.source / name, "-o", made[-1]], check=True)
        return made

    def program(self, the: InstructionSet, headers: Path = HEADERS) -> list[str]:
        """The command that runs it."""
        file = self.folder / f"{the.name}-{headers.name}"
        command = [self.compiler(the.machine, "C++"), "-std=c++17", "-O1", "-Wall", "-Wextra", f"-march={the.march}"]
        command += [*the.definitions, f"-I{headers}", *self.includes, ROOT / "tests/libllama/products.cpp"]
        command += [*self.reference(the.machine), "-Wl,--gc-sections", "-static", "-o", file]
        subprocess.run(command, check=True)
        if the.machine == os.uname().machine and the.needs <= cpu_features():
            return [file]
        return [require(f"qemu-{the.machine}-static", "qemu-user-static"), "-cpu", the.emulated, file]


@pytest.fixture(scope="module")
def builder(ggml, tmp_path_factory) -> Builder:
    return Builder(ggml, tmp_path_factory.mktemp("products"))


@pytest.mark.parametrize("the", SETS, ids=lambda the: the.name)
def test_products_are_their_formula(builder, the):
    if the.is_simulated and not Path("/usr/include/simde").exists():
        require("simde", "libsimde-dev")
    done = subprocess.run(builder.program(the), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^ok (\w+): \d+ cases", done.stdout, re.M) == ["q4_0", "q8_0", "q4_K", "q6_K"]


@pytest.mark.parametrize(
    ("header", "right", "wrong", "formats"),
    [
        ("product_avx2.h", "return low(_mm256_srli_epi16(x, 4));", "return low(_mm256_srli_epi16(x, 3));", "q4_0 q4_K"),
        ("product_avx2.h", "_mm256_set1_epi8(48)", "_mm256_set1_epi8(16)", "q6_K"),
        ("product_avx2.h", "_mm256_slli_epi32(one, 16)", "_mm256_slli_epi32(one, 17)", "q6_K"),
        ("quantized_product.h", "-8*sum_of(from.qs, 32)", "-8*sum_of(from.qs, 31)", "q4_0"),
        ("quantized_product.h", "I::fnma(dmin, of_minima", "I::fma(dmin, of_minima", "q4_K"),
        ("quantized_product.h", "(32*j + 16*part)*I::ROWS", "16*(j + part)*I::ROWS", "q4_K"),
        ("quantized_product.h", "x.values + 16*half*I::ROWS", "x.values", "q8_0"),
    ],
)
def test_a_fault_is_found(builder, tmp_path, header, right, wrong, formats):
    """In the formats that it concerns, and in no other."""
    the = next(each for each in SETS if each.machine == "x86_64")
    broken = tmp_path / f"broken-{abs(hash(wrong))}"
    shutil.copytree(HEADERS, broken)
    text = (broken / header).read_text()
    assert text.count(right) == 1
    (broken / header).write_text(text.replace(right, wrong))
    done = subprocess.run(builder.program(the, broken), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.findall(r"^WRONG (\w+): \d+ cases", done.stdout, re.M) == formats.split()
