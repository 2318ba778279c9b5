"""What scripts/libllama/patch.py changes computes what it should, in this machine's library set (LLM_LIB_DIR). The same
cases run on the image (tests/image/test_service.py)."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.llama import library
from tests.libllama import kernels


@pytest.fixture(scope="module")
def folder() -> Path:
    features = library.read_cpu_features(library.CPUINFO.read_text())
    return library.choose_library(Path(os.environ["LLM_LIB_DIR"]), "off", platform.machine(), features).path


@pytest.fixture(scope="module")
def ggml(folder) -> kernels.Ggml:
    return kernels.Ggml(folder)


@pytest.mark.parametrize("case", kernels.ATTENTION, ids=lambda case: case.name)
def test_attention_is_its_formula(ggml, case):
    assert kernels.error(case, ggml) <= case.tolerance


@pytest.mark.parametrize(
    "case",
    kernels.PRODUCTS,
    ids=lambda case: f"type {case.kind}, {case.rows} x {case.n_out}, {case.threads} threads, {case.experts} experts",
)
def test_rearranged_weights_give_the_same_product(ggml, case):
    """Whatever the number of rows is, filled up or not."""
    assert kernels.error(case, ggml) <= case.tolerance


@pytest.mark.parametrize("kind", kernels.QUANTIZED)
@pytest.mark.parametrize("rows", [2, 3, 7, 13, 32])
def test_a_row_has_the_same_product_in_company(ggml, kind, rows):
    """To the last bit, so that what a batch holds besides changes no answer."""
    shape = {"n_in": 2048, "n_out": 40, "threads": 1}
    alone, _ = kernels.product(kernels.Product(kind, 1, **shape), ggml)
    among, _ = kernels.product(kernels.Product(kind, rows, **shape), ggml)
    assert np.array_equal(among[0], alone[0])


def test_as_a_program_it_says_what_is_wrong(folder):
    """As it is sent to a node; with a tolerance that nothing meets, it must fail."""
    text = Path(kernels.__file__).read_text()
    done = subprocess.run([sys.executable, "-c", text, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].endswith(" 0 WRONG")
    strict = text.replace("EXACT = 2e-5", "EXACT = 1e-9")
    done = subprocess.run([sys.executable, "-c", strict, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "WRONG Attention(name='a prompt'" in done.stdout
