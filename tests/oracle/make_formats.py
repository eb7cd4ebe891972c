"""Writes tests/data/formats: files by the formats' own Python libraries, and what those libraries read from them.

Run: python tests/oracle/make_formats.py  (needs gguf, safetensors, torch, numpy)
"""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent.parent / "data" / "formats"
ROWS, COLUMNS = 3, 512
TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K Q2_K Q3_K".split()
# Where the f16 scales and minima lie in a block; every other byte of a quantised block may have any value.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
          "Q2_K": [80, 82], "Q3_K": [108]}


def random_blocks(rng, name):
    """[ROWS, bytes of a row] of type `name`: random bytes, with finite scales (some subnormal, some zero)."""
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    if name == "F32":
        return rng.standard_normal((ROWS, COLUMNS)).astype(np.float32).view(np.uint8)
    if name == "F16":
        return rng.standard_normal((ROWS, COLUMNS)).astype(np.float16).view(np.uint8)
    if name == "BF16":
        return gguf.quants.quantize(rng.standard_normal((ROWS, COLUMNS)).astype(np.float32), kind)
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // elements, size), dtype=np.uint8)
    for at in SCALES[name]:
        scales = (rng.standard_normal(len(blocks)) * 10.0 ** rng.integers(-7, 1, len(blocks))).astype(np.float16)
        scales[0] = 0
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def write_types():
    """Every tensor type in one GGUF file, and the float32 values that gguf-py reads from it."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(OUT / "types.gguf", "llama")
    expected = {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        blocks = random_blocks(rng, name)
        if name in ("F32", "F16"):
            writer.add_tensor(name, blocks.view(np.float32 if name == "F32" else np.float16))
        else:
            writer.add_tensor(name, blocks, raw_dtype=kind)
        expected[name] = gguf.quants.dequantize(blocks, kind).astype(np.float32).reshape(ROWS, COLUMNS)
    close(writer)
    save_numpy(expected, OUT / "types.expected.safetensors")


def write_quantised():
    """Floats, and the blocks that gguf-py (ggml's quantize_row_*_ref, in numpy) makes of them."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) * 10.0 ** rng.integers(-6, 3, (ROWS, COLUMNS // 32)).repeat(
        32, axis=1).astype(np.float32)
    values[0, :32] = 0
    values[0, 32:64] = np.where(np.arange(32) % 2, 1, -1)  # the farthest from zero twice, with both signs
    values[0, 64:96] = 1e-8  # a scale that is no number but zero in f16
    save_numpy({"values": values}, OUT / "quantised.safetensors")
    writer = gguf.GGUFWriter(OUT / "quantised.gguf", "llama")
    for name in ("Q8_0", "Q5_0", "Q4_0"):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    close(writer)


def write_metadata():
    """Every type of metadata, and a few small tensors."""
    writer = gguf.GGUFWriter(OUT / "metadata.gguf", "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 4000000000)
    writer.add_int32("i32", -2000000000)
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 1e300)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("string", "Grüße, 世界")
    writer.add_array("strings", ["a", "", "Ġthe"])
    writer.add_array("integers", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("booleans", [True, False, True])
    writer.add_custom_alignment(64)
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.add_tensor("matrix", np.arange(6, dtype=np.float16).reshape(2, 3))
    writer.add_tensor("blocks", gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    close(writer)


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors():
    tensors = {
        "f32": torch.tensor([[1.5, -2.0, 3.25], [0.0, -0.0, 1e-40]]),
        "f16": torch.tensor([1.0, 65504.0, 6e-8, -0.333]).half(),
        "bf16": torch.tensor([[1.0, 3.140625], [-1e38, 1e-38]]).bfloat16(),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 4),
        "ids": torch.arange(3),
        "mask": torch.tensor([True, False, True]),
    }
    save_file(tensors, OUT / "single.safetensors", metadata={"format": "pt"})
    directory = OUT / "sharded"
    directory.mkdir(exist_ok=True)
    shards = [["f32", "ids"], ["f16", "bf16", "scalar"], ["empty", "mask"]]
    weight_map = {}
    for i, names in enumerate(shards, 1):
        shard = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file({name: tensors[name] for name in names}, directory / shard, metadata={"format": "pt"})
        weight_map |= {name: shard for name in names}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_interleaved():
    """A q projection as Hugging Face has it, and as llama.cpp's converter stores it (LlamaModel.permute)."""
    heads, half, width = 3, 4, 5
    q = np.random.default_rng(2).standard_normal((heads * 2 * half, width)).astype(np.float32)
    stored = q.reshape(heads, 2, half, width).swapaxes(1, 2).reshape(q.shape)
    save_numpy({"huggingface": q, "stored": np.ascontiguousarray(stored)}, OUT / "interleaved.safetensors")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write_types()
    write_quantised()
    write_metadata()
    write_safetensors()
    write_interleaved()
