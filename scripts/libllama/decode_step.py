"""Does a library set run on this CPU? One decode step of a tiny model by its llama-bench says so.

The model has a layer of each type of weights that model files commonly hold, in shapes that ggml's fast products take
(AMX, repacked weights), and is run with one row and with many, with and without flash attention. Its weights are
random: what dies, dies whatever they say. Right or wrong is not asked: tests/kernels.py does. Standard library only.
"""

import random
import signal
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

TIMEOUT_S = 300  # it takes less than a second
FAULTS = ("SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGTRAP")  # others come from outside
ROWS, SEED = 48, 20261127
WIDTH, HEADS, KV_HEADS, WORDS = (
    256,
    4,
    2,
    64,
)  # a K-quant's block is 256 weights; AMX takes multiples of 32 rows of them
TYPES = {  # enum ggml_type, weights in a block, bytes of a block
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ4_NL": (20, 32, 18),
    "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2),
}
UINT32, FLOAT32, STRING = 4, 6, 8  # enum gguf_type
ALIGNMENT = 32
# Whichever two bytes of a block are a 16 bit float, they are a small one.
SMALL = bytes(byte & 0x0F for byte in range(256))


class Unusable(Exception):
    """llama-bench did not run, and that is not this CPU's fault."""


def write_model(path: Path) -> None:
    """A GGUF file with a llama of one layer for each of TYPES."""
    metadata: dict[str, str | int | float] = {
        "general.architecture": "llama",
        "llama.context_length": 2 * ROWS,
        "llama.embedding_length": WIDTH,
        "llama.block_count": len(TYPES),
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": WORDS,
        "tokenizer.ggml.model": "none",
    }
    kv_width = WIDTH // HEADS * KV_HEADS
    tensors = [("token_embd", "Q6_K", WORDS), ("output_norm", "", 1), ("output", "Q6_K", WORDS)]
    for layer, kind in enumerate(TYPES):
        tensors += [(f"blk.{layer}.{name}", "", 1) for name in ("attn_norm", "ffn_norm")]
        tensors += [(f"blk.{layer}.{name}", kind, kv_width) for name in ("attn_k", "attn_v")]
        wide = ("attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        tensors += [(f"blk.{layer}.{name}", kind, WIDTH) for name in wide]

    header = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _string(key)
        if isinstance(value, str):
            header += struct.pack("<I", STRING) + _string(value)
        else:
            kind, code = (FLOAT32, "f") if isinstance(value, float) else (UINT32, "I")
            header += struct.pack(f"<I{code}", kind, value)
    rng, data = random.Random(SEED), bytearray()
    for name, kind, n_rows in tensors:
        number, block, size = TYPES[kind] if kind else (0, 1, 4)  # norms: 32 bit floats
        shape = (WIDTH, n_rows) if kind else (WIDTH,)
        header += _string(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, len(data))
        n_bytes = WIDTH * n_rows // block * size
        data += rng.randbytes(n_bytes).translate(SMALL) if kind else struct.pack("<f", 1.0) * WIDTH
        data += bytes(-len(data) % ALIGNMENT)
    path.write_bytes(header + bytes(-len(header) % ALIGNMENT) + data)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def death(bench: Path, loader: Sequence[str | Path] = ()) -> str:
    """Which of FAULTS ends the set with this llama-bench; "" if none. `loader` is put before the command. Raises
    Unusable and OSError."""
    with tempfile.TemporaryDirectory() as folder:  # a core file goes there as well
        model = Path(folder) / "tiny.gguf"
        write_model(model)
        options = ["-m", model, "-p", str(ROWS), "-n", "1", "-r", "1", "-t", "2", "-fa", "0,1", "--no-warmup"]
        try:
            done = subprocess.run(
                [*loader, bench, *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unusable(f"{bench} ran for more than {TIMEOUT_S} s") from None
    if done.returncode == 0:
        return ""
    name = signal.Signals(-done.returncode).name if done.returncode < 0 else str(done.returncode)
    if name not in FAULTS:
        raise Unusable(f"{bench} ended with {name}:\n{done.stdout.strip()}")
    return name
