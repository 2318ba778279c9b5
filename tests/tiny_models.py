"""Make tiny GGUF files of many architectures: random weights, the demo's vocabulary, a few hundred kilobytes each.

For tests of what the engine promises of any model. ARCHITECTURES is a table: of each architecture the keys and the
tensors that llama.cpp asks for (src/models/*.cpp in its tree), with the smallest sizes that its kernels take. Sizes and
names are llama.cpp's; the weights are such that a greedy answer is sure of every token: only whole words can win, the
end of text never does, and logits are far apart, so that the last bit of a sum decides nothing.

Knows GGUF and llama.cpp's names. Knows nothing of the service.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

VOCABULARY = Path(__file__).resolve().parents[1] / "packer" / "models" / "demo.gguf"
WORD = re.compile("\u2581[a-z]+")  # SentencePiece writes a space as U+2581
SEED = 20261128
OUTPUT_GAIN = 8.0
CONTEXT = 512
WIDTH, HEADS, KV_HEADS, HEAD = 64, 4, 2, 16
FEED_FORWARD = 96
EXPERTS, USED_EXPERTS = 4, 2
INNER, STATE, CONV, SSM_HEADS, GROUPS = 2 * WIDTH, 16, 4, 4, 1  # of Mamba's layers; llama.cpp wants INNER = 2 * WIDTH
TIME_STEP_RANK = 8
KEY_HEADS, VALUE_HEADS = 2, 4  # of gated delta nets, each of STATE

Shapes = dict[str, tuple[int, ...]]  # as in GGUF: the fastest dimension first


def attention(query: int = HEADS * HEAD) -> Shapes:
    return {
        "attn_q.weight": (WIDTH, query),
        "attn_k.weight": (WIDTH, KV_HEADS * HEAD),
        "attn_v.weight": (WIDTH, KV_HEADS * HEAD),
        "attn_output.weight": (HEADS * HEAD, WIDTH),
    }


def head_norms() -> Shapes:
    return {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}


def gated_mlp(norm: str = "ffn_norm.weight") -> Shapes:
    return {norm: (WIDTH,), "ffn_gate.weight": (WIDTH, FEED_FORWARD), **mlp()}


def mlp() -> Shapes:
    return {"ffn_up.weight": (WIDTH, FEED_FORWARD), "ffn_down.weight": (FEED_FORWARD, WIDTH)}


def experts(norm: str = "ffn_norm.weight") -> Shapes:
    return {
        norm: (WIDTH,),
        "ffn_gate_inp.weight": (WIDTH, EXPERTS),
        "ffn_gate_exps.weight": (WIDTH, FEED_FORWARD, EXPERTS),
        "ffn_up_exps.weight": (WIDTH, FEED_FORWARD, EXPERTS),
        "ffn_down_exps.weight": (FEED_FORWARD, WIDTH, EXPERTS),
    }


def shared_expert() -> Shapes:
    return {
        "ffn_gate_inp_shexp.weight": (WIDTH,),
        "ffn_gate_shexp.weight": (WIDTH, FEED_FORWARD),
        "ffn_up_shexp.weight": (WIDTH, FEED_FORWARD),
        "ffn_down_shexp.weight": (FEED_FORWARD, WIDTH),
    }


def mamba(norms: bool = False) -> Shapes:
    extra: Shapes = {
        "ssm_dt_norm.weight": (TIME_STEP_RANK,),
        "ssm_b_norm.weight": (STATE,),
        "ssm_c_norm.weight": (STATE,),
    }
    return {
        "ssm_in.weight": (WIDTH, 2 * INNER),
        "ssm_conv1d.weight": (CONV, INNER),
        "ssm_conv1d.bias": (INNER,),
        "ssm_x.weight": (INNER, TIME_STEP_RANK + 2 * STATE),
        "ssm_dt.weight": (TIME_STEP_RANK, INNER),
        "ssm_dt.bias": (INNER,),
        "ssm_a": (STATE, INNER),
        "ssm_d": (INNER,),
        "ssm_out.weight": (INNER, WIDTH),
        **(extra if norms else {}),
    }


def mamba2() -> Shapes:
    conv = INNER + 2 * GROUPS * STATE
    return {
        "ssm_in.weight": (WIDTH, INNER + conv + SSM_HEADS),
        "ssm_conv1d.weight": (CONV, conv),
        "ssm_conv1d.bias": (conv,),
        "ssm_dt.bias": (SSM_HEADS,),
        "ssm_a": (1, SSM_HEADS),
        "ssm_d": (1, SSM_HEADS),
        "ssm_norm.weight": (INNER // GROUPS, GROUPS),
        "ssm_out.weight": (INNER, WIDTH),
    }


def short_convolution() -> Shapes:
    return {
        "shortconv.conv.weight": (CONV - 1, WIDTH),
        "shortconv.in_proj.weight": (WIDTH, 3 * WIDTH),
        "shortconv.out_proj.weight": (WIDTH, WIDTH),
    }


def delta_net(gates: Shapes) -> Shapes:
    keys, values = KEY_HEADS * STATE, VALUE_HEADS * STATE
    return {
        "attn_qkv.weight": (WIDTH, 2 * keys + values),
        "attn_gate.weight": (WIDTH, values),
        "ssm_conv1d.weight": (CONV, 2 * keys + values),
        "ssm_dt.bias": (VALUE_HEADS,),
        "ssm_a": (VALUE_HEADS,),
        "ssm_norm.weight": (STATE,),
        "ssm_out.weight": (values, WIDTH),
        **gates,
    }


@dataclass(frozen=True)
class Architecture:
    """keys: as in the file, without the architecture's name before them. blocks: the tensors of each layer, without
    `blk.N.` and the norm before each. output_norm: what llama.cpp calls the last one."""

    keys: dict[str, Any]
    blocks: tuple[Shapes, ...]
    output_norm: str = "output_norm"


HEAD_KEYS = {
    "attention.head_count": HEADS,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "rope.dimension_count": HEAD,
    "rope.freq_base": 10000.0,
}
DENSE_KEYS = {**HEAD_KEYS, "attention.head_count_kv": KV_HEADS, "feed_forward_length": FEED_FORWARD}
HYBRID_KEYS = {**HEAD_KEYS, "attention.head_count_kv": [0, KV_HEADS] * 2, "feed_forward_length": FEED_FORWARD}
CONVOLUTION_KEYS = {"ssm.conv_kernel": CONV, "ssm.inner_size": INNER, "ssm.state_size": STATE}
MAMBA_KEYS = {**CONVOLUTION_KEYS, "ssm.time_step_rank": TIME_STEP_RANK}
MAMBA2_KEYS = {**CONVOLUTION_KEYS, "ssm.time_step_rank": SSM_HEADS, "ssm.group_count": GROUPS}
NO_ATTENTION_KEYS = {"attention.head_count": 0, "feed_forward_length": 0}
DELTA_NET_KEYS = {
    "ssm.conv_kernel": CONV,
    "ssm.inner_size": VALUE_HEADS * STATE,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": VALUE_HEADS,
    "ssm.group_count": KEY_HEADS,
    "full_attention_interval": 2,
}
EXPERT_KEYS = {
    "expert_count": EXPERTS,
    "expert_used_count": USED_EXPERTS,
    "expert_feed_forward_length": FEED_FORWARD,
    "expert_shared_feed_forward_length": FEED_FORWARD,
}
POST_NORM = "post_attention_norm.weight"
ALPHA_BETA: Shapes = {"ssm_alpha.weight": (WIDTH, VALUE_HEADS), "ssm_beta.weight": (WIDTH, VALUE_HEADS)}
BETA_ALPHA: Shapes = {"ssm_ba.weight": (WIDTH, 2 * VALUE_HEADS)}
GATED_ATTENTION = {**attention(2 * HEADS * HEAD), **head_norms()}  # half of the queries are gates

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(DENSE_KEYS, ({**attention(), **gated_mlp()},) * 2),
    "qwen3": Architecture(DENSE_KEYS, ({**attention(), **head_norms(), **gated_mlp()},) * 2),
    "mamba": Architecture({**NO_ATTENTION_KEYS, **MAMBA_KEYS}, (mamba(),) * 2),
    "mamba2": Architecture({**NO_ATTENTION_KEYS, **MAMBA2_KEYS}, (mamba2(),) * 2),
    "jamba": Architecture(
        {**HYBRID_KEYS, **MAMBA_KEYS},
        ({**mamba(norms=True), **gated_mlp()}, {**attention(), **gated_mlp()}) * 2,
    ),
    "lfm2": Architecture(
        {**HYBRID_KEYS, "shortconv.l_cache": CONV - 1},
        ({**short_convolution(), **gated_mlp()}, {**attention(), **head_norms(), **gated_mlp()}) * 2,
        output_norm="token_embd_norm",
    ),
    "falcon-h1": Architecture(
        {**DENSE_KEYS, **MAMBA2_KEYS}, ({**mamba2(), **attention(), **gated_mlp("ffn_norm")},) * 2
    ),
    "granitehybrid": Architecture(
        {**HYBRID_KEYS, **MAMBA2_KEYS}, ({**mamba2(), **gated_mlp()}, {**attention(), **gated_mlp()}) * 2
    ),
    "nemotron_h": Architecture(
        {
            **HYBRID_KEYS,
            **MAMBA2_KEYS,
            "attention.head_count_kv": [0, KV_HEADS, 0],
            "feed_forward_length": [0, 0, FEED_FORWARD],
        },
        (mamba2(), attention(), mlp()),
    ),
    "qwen35": Architecture(
        {**DENSE_KEYS, **DELTA_NET_KEYS, "rope.dimension_sections": [4, 2, 2, 0]},
        ({**delta_net(ALPHA_BETA), **gated_mlp(POST_NORM)}, {**GATED_ATTENTION, **gated_mlp(POST_NORM)}) * 2,
    ),
    "qwen3next": Architecture(
        {**DENSE_KEYS, **DELTA_NET_KEYS, **EXPERT_KEYS},
        (
            {**delta_net(BETA_ALPHA), **experts(POST_NORM), **shared_expert()},
            {**GATED_ATTENTION, **experts(POST_NORM), **shared_expert()},
        )
        * 2,
    ),
}


def make_model(folder: Path, name: str) -> Path:
    """The file of that architecture in `folder`, made if it is not there."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + VOCABULARY.read_bytes()).hexdigest()[:12]
    path = folder / f"tiny-{name}-{recipe}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        _write(part, name, ARCHITECTURES[name])
        part.rename(path)
    return path


def _write(path: Path, name: str, architecture: Architecture) -> None:
    writer = gguf.GGUFWriter(path, name)
    words = _copy_vocabulary(writer)
    common = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": len(architecture.blocks),
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
    }
    for key, value in {**common, **architecture.keys}.items():
        _add_key(writer, f"{name}.{key}", value)
    rng = np.random.default_rng(SEED)
    for tensor, shape in _list_tensors(architecture, len(words)).items():
        values = _draw(tensor, shape[::-1], rng)
        if tensor == "output.weight":
            values *= OUTPUT_GAIN * np.array([[WORD.fullmatch(word) is not None] for word in words], np.float32)
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _list_tensors(architecture: Architecture, n_words: int) -> Shapes:
    tensors: Shapes = {
        "token_embd.weight": (WIDTH, n_words),
        f"{architecture.output_norm}.weight": (WIDTH,),
        "output.weight": (WIDTH, n_words),
    }
    for layer, block in enumerate(architecture.blocks):
        tensors[f"blk.{layer}.attn_norm.weight"] = (WIDTH,)
        tensors |= {f"blk.{layer}.{tensor}": shape for tensor, shape in block.items()}
    return tensors


def _draw(tensor: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    for ending, draw in _RULES.items():
        if re.search(ending, tensor):
            return draw(rng, shape).astype(np.float32)
    return (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)


# Tensors that are no matrices. A state must fade (ssm_a below zero), and not at once.
_RULES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    r"norm(\.weight)?$": lambda rng, shape: np.ones(shape),
    r"ssm_a$": lambda rng, shape: -rng.uniform(0.1, 1.0, shape),
    r"ssm_d$": lambda rng, shape: np.ones(shape),
    r"\.bias$": lambda rng, shape: rng.uniform(-0.5, 0.5, shape),
}


def _copy_vocabulary(writer: gguf.GGUFWriter) -> list[str]:
    """The demo's tokenizer and chat template. Returns its words."""
    fields = gguf.GGUFReader(VOCABULARY).fields
    for name, field in fields.items():
        if name.startswith("tokenizer."):
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[0] if inner else None)
    return fields["tokenizer.ggml.tokens"].contents()


def _add_key(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_uint32(name, value)
