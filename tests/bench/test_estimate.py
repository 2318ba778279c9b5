"""Estimates find what they count, and count it right; no LLVM is needed."""

from __future__ import annotations

import pytest

from tests.bench import estimate
from tests.bench.estimate import Cpu, Kernel

CPU = Cpu("aarch64", "any", "", 64, 1.6)

# A tile of q4_K: a loop over blocks, and in it one over sub-blocks.
NESTED = """
libggml-cpu.so.0:\tfile format elf64-littleaarch64

0000000000001000 <tile>:
    1000:      \tmov\tx0, x1
    1004:      \tmovi\tv0.2d, #0000000000000000
    1008:      \tsmmla\tv0.4s, v1.16b, v2.16b  // the sub-block
    100c:      \tsmmla\tv0.4s, v3.16b, v4.16b
    1010:      \tb.ne\t0x1008 <tile+0x8>
    1014:      \tfmla\tv5.4s, v0.4s, v6.4s
    1018:      \tcbnz\tx3, 0x1004 <tile+0x4>
    101c:      \tb.gt\t0x1024 <tile+0x24>
    1020:      \tret
"""


@pytest.fixture
def one_cycle_each(monkeypatch):
    monkeypatch.setattr(estimate, "cycles", lambda code, _cpu: float(sum(each.jump() is None for each in code)))


def test_innermost_loop_and_the_rest_of_its_block_are_found():
    inner, rest = estimate.find_loops(estimate.parse(NESTED))
    assert [each.name for each in inner] == ["smmla", "smmla", "b.ne"]
    assert [each.name for each in rest] == ["movi", "fmla", "cbnz"]


def test_comments_and_labels_are_no_part_of_an_instruction():
    texts = [each.text for each in estimate.parse(NESTED)]
    assert texts[2] == "smmla\tv0.4s, v1.16b, v2.16b" and texts[4] == "b.ne\t0x1008"


def test_a_blocks_products_are_divided_by_its_passes_and_its_rest(one_cycle_each):
    """512 products: eight passes of two cycles with 64 each, and two cycles."""
    found = estimate.estimate(Kernel("ours", "q4_K", 2, 512, "tile"), estimate.parse(NESTED), CPU)
    assert found == pytest.approx(512 / (8 * 2 + 2))


def test_a_block_of_32_is_one_pass(one_cycle_each):
    found = estimate.estimate(Kernel("ours", "q4_0", 2, 64, "tile"), estimate.parse(NESTED), CPU)
    assert found == pytest.approx(64 / 2)


def test_another_number_of_products_than_the_tiles_is_refused(one_cycle_each):
    with pytest.raises(estimate.NoLoop, match="500 products in a block, 64 in its loop"):
        estimate.estimate(Kernel("ours", "q4_K", 2, 500, "tile"), estimate.parse(NESTED), CPU)


def test_no_loop_is_refused():
    with pytest.raises(estimate.NoLoop, match="no loop with products"):
        estimate.find_loops(estimate.parse(NESTED.replace("smmla", "mla")))


@pytest.mark.parametrize(
    ("lines", "products"),
    [
        (["vpmaddubsw\t%ymm0, %ymm1, %ymm2", "vpmaddwd\t%ymm0, %ymm1, %ymm2"], 32),
        (["vpmaddwd\t%ymm0, %ymm1, %ymm2"] * 2, 32),
        (["vpdpbusd\t%zmm0, %zmm1, %zmm2"], 64),
        (["sdot\tv0.4s, v1.16b, v2.4b[1]"], 16),
        (["mla\tv0.4s, v1.4s, v2.4s"], 0),
    ],
)
def test_products_are_counted(lines, products):
    assert estimate.count_products([estimate.Instruction(i, line) for i, line in enumerate(lines)]) == products


def test_our_tiles_and_ggmls_functions_are_read_by_their_names():
    names = "\n".join(
        [
            "_A\tvoid product::q4_K<product::i8mm>::tile<4>(int, unsigned char const*)",
            "ggml_gemm_q6_K_8x8_q8_K\tggml_gemm_q6_K_8x8_q8_K",
            "other\tggml_other",
        ]
    )
    assert estimate.read_kernels(names) == [
        Kernel("ours", "q4_K", 8, 8 * 4 * 256, "_A"),
        Kernel("ggml", "q6_K", 4, 4 * 8 * 256, "ggml_gemm_q6_K_8x8_q8_K"),
    ]


@pytest.mark.parametrize(
    ("rows", "products"),
    [(8, 30.0), (4, 20.0), (16, 30.0), (1, 5.0), (3, 15.0), (9, 30.0 * 9 / 16)],
    ids=["a tile", "a smaller one", "two", "half of a pair", "three of four", "two tiles of five, of eight each"],
)
def test_rows_are_shared_out_among_tiles(rows, products):
    assert estimate.speed_at({2: 10.0, 4: 20.0, 8: 30.0}, rows) == pytest.approx(products)


def test_a_model_in_a_mixture_has_as_many_weights_as_in_one_format():
    for model in estimate.MODELS.values():
        assert sum(model.weights(True).values()) == pytest.approx(sum(model.weights(False).values()))
    assert sum(estimate.MODELS["TinyLlama-1.1B"].weights(True).values()) == pytest.approx(1.03e9, rel=0.01)


def test_a_step_is_its_products_by_clock_and_cores():
    speeds = {form: {1: 10.0} for form in estimate.BYTES}
    model = estimate.Model(layers=1, width=1000, kv_width=1000, hidden=1000, words=1000)
    assert estimate.step_ms(model, True, speeds, rows=1, ghz=1.0, cores=2) == pytest.approx(8e6 / 10 / 1e9 / 2 * 1e3)
    assert estimate.prompt_tokens_s(model, True, speeds, ghz=1.0) == pytest.approx(1e9 / (7e6 / 10))
