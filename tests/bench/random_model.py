"""Make the benchmark's model: TinyLlama's shape with random weights, quantised as a real file would be.

Speed does not depend on what the weights say, so nothing needs to be downloaded. Two things are not left to chance,
because servers can only be compared on equal work: every token of an answer is a whole word, so each has text of its
own and none is held back as half a character, and an answer sent back as part of a prompt is read as the same tokens;
and the end-of-text token never wins, so every answer has exactly the length asked for. Both follow from the output
matrix: the rows of all other tokens are zero.

Knows GGUF and libllama's quantiser. Knows nothing of servers.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import gguf
import numpy as np

SEED = 20261122
WORD = re.compile("\u2581[a-z]+")  # SentencePiece writes a space as U+2581
OUTPUT_GAIN = 4.0  # spreads the logits, so that the last bit of a sum rarely decides which token is the greatest


@dataclass(frozen=True)
class Shape:
    """TinyLlama 1.1B."""

    layers: int = 22
    width: int = 2048
    heads: int = 32
    kv_heads: int = 4
    hidden: int = 5632
    context: int = 2048
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5


def make_model(folder: Path, vocabulary: Path, lib_set: Path, quantization: str = "Q4_0") -> Path:
    """The file in `folder`, made if it is not there. lib_set: a folder with libllama; quantization: Q4_0, Q4_K_M..."""
    shape = Shape()
    recipe = repr((Path(__file__).read_text(), asdict(shape), quantization)).encode() + vocabulary.read_bytes()
    path = folder / f"tinyllama-random-{quantization.lower()}-{hashlib.sha256(recipe).hexdigest()[:12]}.gguf"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    full = folder / f".{path.name}.{os.getpid()}.f16"
    part = folder / f".{path.name}.{os.getpid()}"
    try:
        write_f16(full, vocabulary, shape)
        quantize(full, part, quantization, lib_set)
        part.rename(path)
    finally:
        full.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    return path


def write_f16(path: Path, vocabulary: Path, shape: Shape) -> None:
    """Write tensor by tensor: never more than one in memory."""
    fields = gguf.GGUFReader(vocabulary).fields
    words = fields["tokenizer.ggml.tokens"].contents()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("TinyLlama shape, random weights")
    writer.add_vocab_size(len(words))
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name, field in fields.items():
        if name.startswith("tokenizer."):
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[0] if inner else None)
    specs = list(list_tensors(shape, len(words)))
    for name, rows, columns in specs:
        kind = np.dtype(np.float16 if rows else np.float32)
        size = (rows, columns) if rows else (columns,)
        writer.add_tensor_info(name, size, kind, int(np.prod(size)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(SEED)
    is_word = np.array([WORD.fullmatch(word) is not None for word in words])
    for name, rows, columns in specs:
        if not rows:
            writer.write_tensor_data(np.ones(columns, np.float32))
            continue
        weights = rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
        if name == "output.weight":
            weights *= OUTPUT_GAIN * is_word[:, None]
        writer.write_tensor_data(weights.astype(np.float16))
    writer.close()


def list_tensors(shape: Shape, n_words: int) -> Iterator[tuple[str, int, int]]:
    """Name, rows, columns; rows = 0 for the vectors of the norms."""
    width, kv_width = shape.width, shape.width // shape.heads * shape.kv_heads
    yield "token_embd.weight", n_words, width
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm.weight", 0, width
        yield f"blk.{layer}.attn_q.weight", width, width
        yield f"blk.{layer}.attn_k.weight", kv_width, width
        yield f"blk.{layer}.attn_v.weight", kv_width, width
        yield f"blk.{layer}.attn_output.weight", width, width
        yield f"blk.{layer}.ffn_norm.weight", 0, width
        yield f"blk.{layer}.ffn_gate.weight", shape.hidden, width
        yield f"blk.{layer}.ffn_up.weight", shape.hidden, width
        yield f"blk.{layer}.ffn_down.weight", width, shape.hidden
    yield "output_norm.weight", 0, width
    yield "output.weight", n_words, width


def quantize(source: Path, target: Path, quantization: str, lib_set: Path) -> None:
    """What llama-quantize does, asked of libllama itself."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(lib_set)
    from llama_cpp import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantization}")
    params.nthread = len(os.sched_getaffinity(0))
    silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"libllama could not quantise {source.name} to {quantization}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.random_model", epilog="Prints the file's path.")
    parser.add_argument("--folder", type=Path, required=True, help="where the file is kept")
    parser.add_argument("--vocabulary", type=Path, required=True, help="llama.cpp's ggml-vocab-llama-spm.gguf")
    parser.add_argument("--lib-set", type=Path, required=True, help="a folder with libllama")
    parser.add_argument("--quantization", default="Q4_0", help="as llama.cpp names it (default %(default)s)")
    args = parser.parse_args()
    print(make_model(args.folder, args.vocabulary, args.lib_set, args.quantization))


if __name__ == "__main__":
    main()
