"""vllm_models.py GGUF OUT: the model as Hugging Face directories, OUT/bf16 and OUT/w8a8 (int8 weights, one scale an output
channel, and int8 activations, one scale a token: compressed-tensors' W8A8, rounded to nearest)."""
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SCHEME = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {"group_0": {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}}},
}


def write_bf16(gguf: Path, out: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # of the GGUF file; the weights are decoded
    model.hf_quantizer, model.is_quantized = None, False
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def write_w8a8(source: Path, out: Path) -> None:
    tensors = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            tensors[name] = weight.clone()
            continue
        scale = (weight.float().abs().amax(1, keepdim=True) / 127).clamp_min(1e-8)
        tensors[name] = torch.round(weight.float() / scale).clamp(-127, 127).to(torch.int8)
        tensors[name + "_scale"] = scale.to(torch.bfloat16)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, out)
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": SCHEME}
    (out / "config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    target = Path(sys.argv[2])
    write_bf16(Path(sys.argv[1]), target / "bf16")
    write_w8a8(target / "bf16", target / "w8a8")
