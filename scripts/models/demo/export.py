"""Write the trained network as a GGUF file that llama.cpp loads, and round weights as that file does.

Knows names and metadata of GGUF's "llama" architecture, and the chat template. Knows nothing of training.
"""

import os
from pathlib import Path

import gguf
import numpy as np

from .network import NORM_EPSILON, ROPE_BASE, Shape
from .tokenizer import ASSISTANT, BEGIN, BYTES, CONTROL, END, SYSTEM, UNKNOWN, USER, Tokenizer

CONTEXT_LENGTH = 2048
# The key by which a GGUF recommends sampling; llama.cpp's tools and our service take it as their default. The demo
# knows its answers word for word, and chance only leads it astray (78 % right at 0.7, measured on an earlier file).
TEMPERATURE_KEY, TEMPERATURE = "general.sampling.temp", 0.0
# A message cannot pose as another role: what would read as a role mark is broken up before it is tokenized.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% set text = message['content'] | trim | replace('<|', '< |') %}"
    "{% if message['role'] == 'assistant' %}{{ '" + ASSISTANT + "' + text + '" + END + "' }}"
    "{% elif message['role'] == 'system' %}{{ '" + SYSTEM + " ' + text + '" + END + "' }}"
    "{% else %}{{ '" + USER + " ' + text + '" + END + "' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)
LAYER_NAMES = {
    "attn_q": gguf.MODEL_TENSOR.ATTN_Q,
    "attn_k": gguf.MODEL_TENSOR.ATTN_K,
    "attn_v": gguf.MODEL_TENSOR.ATTN_V,
    "attn_output": gguf.MODEL_TENSOR.ATTN_OUT,
    "ffn_gate": gguf.MODEL_TENSOR.FFN_GATE,
    "ffn_up": gguf.MODEL_TENSOR.FFN_UP,
    "ffn_down": gguf.MODEL_TENSOR.FFN_DOWN,
    "attn_norm": gguf.MODEL_TENSOR.ATTN_NORM,
    "ffn_norm": gguf.MODEL_TENSOR.FFN_NORM,
}
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def round_weights(params: dict) -> dict:
    """Return params as llama.cpp will see them: every matrix through Q8_0 and back. Blocks run along the input axis."""
    rounded = {}
    for name, value in params.items():
        value = np.asarray(value, np.float32)
        if name == "embed":
            value = gguf.quants.dequantize(gguf.quants.quantize(value, Q8_0), Q8_0)
        elif value.ndim == 3:
            rows = np.ascontiguousarray(value.transpose(0, 2, 1))
            value = gguf.quants.dequantize(gguf.quants.quantize(rows, Q8_0), Q8_0).transpose(0, 2, 1)
        rounded[name] = value
    return rounded


def write_gguf(path: Path, params: dict, shape: Shape, tokenizer: Tokenizer) -> None:
    """Write the model under a temporary name beside `path` and rename it when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(temporary, "llama")
    add_metadata(writer, shape)
    add_tokenizer(writer, tokenizer)
    names = gguf.TENSOR_NAMES
    add_matrix(writer, names[gguf.MODEL_TENSOR.TOKEN_EMBD] + ".weight", params["embed"])  # the output is tied to it
    writer.add_tensor(names[gguf.MODEL_TENSOR.OUTPUT_NORM] + ".weight", np.asarray(params["output_norm"], np.float32))
    for layer in range(shape.n_layers):
        for name, tensor in LAYER_NAMES.items():
            full_name = names[tensor].format(bid=layer) + ".weight"
            value = np.asarray(params[name][layer], np.float32)
            if value.ndim == 2:
                add_matrix(writer, full_name, value.T)
            else:
                writer.add_tensor(full_name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.rename(path)


def add_matrix(writer: gguf.GGUFWriter, name: str, value: np.ndarray) -> None:
    """Add a matrix of shape (out, in) as Q8_0."""
    rows = np.ascontiguousarray(np.asarray(value, np.float32))
    writer.add_tensor(name, gguf.quants.quantize(rows, Q8_0), raw_dtype=Q8_0)


def add_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("Llamakiln demo")
    writer.add_author("The Llamakiln authors")
    writer.add_description(
        "A tiny demo model that only knows Llamakiln and may be wrong; scripts/models/demo/train.py makes it."
    )
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.ffn_width)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(shape.n_pieces)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_float32(TEMPERATURE_KEY, TEMPERATURE)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Add pieces, scores and kinds; the end of a turn is also the end of the text, so llama.cpp stops at it."""
    kinds = [gguf.TokenType.UNKNOWN if piece == UNKNOWN else gguf.TokenType.CONTROL for piece in CONTROL]
    kinds += [gguf.TokenType.BYTE] * len(BYTES)
    kinds += [gguf.TokenType.NORMAL] * (len(tokenizer.pieces) - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokenizer.pieces)
    writer.add_token_scores(tokenizer.scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(tokenizer.ids[BEGIN])
    writer.add_eos_token_id(tokenizer.ids[END])
    writer.add_eot_token_id(tokenizer.ids[END])
    writer.add_unk_token_id(tokenizer.ids[UNKNOWN])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
