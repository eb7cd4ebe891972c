"""Tiny models whose files say other things than their configuration, or lie in unusual files, with what transformers
computes from them.

    python tests/oracle/make_odd_models.py [NAME...]        # all, or the named ones

writes tests/data/models/NAME/ in the form of make_models.py, which this builds on. transformers loads each directory
as it is, but for the names under a prefix, which are written last.
"""

import json
import shutil
import sys

import gguf
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import make_models as base

SMALL = dict(vocab_size=40, hidden_size=12, intermediate_size=20, num_hidden_layers=2, head_dim=6,
             rope_parameters=base.PLAIN_ROPE)


def own_head(folder, tensors):
    """The configuration ties the head to the embedding, and the file has another head."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}, indent=2) + "\n")
    return tensors


def some_biases(_, tensors):
    """Biases of q, k, v and up alone, and of those not in each layer."""
    gone = ("o_proj.bias", "gate_proj.bias", "down_proj.bias", "layers.1.self_attn.k_proj.bias")
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(gone)}


def odd_types(_, tensors):
    """Types that a model is rarely stored in."""
    types = {"model.norm.weight": torch.float64, "model.layers.0.mlp.up_proj.weight": torch.float8_e4m3fn,
             "model.layers.1.mlp.down_proj.weight": torch.float8_e5m2}
    return {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in tensors.items()}


def write_index(folder, tensors, prefix):
    """Two shards, of which the index says that one holds a head, which is tied and not there."""
    shards = [{}, {}]
    for number, (name, tensor) in enumerate(sorted(tensors.items())):
        shards[number % 2][prefix + name] = tensor
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    where = {name: file for file, shard in zip(files, shards) for name in shard} | {prefix + "lm_head.weight": files[1]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}) + "\n")
    for file, shard in zip(files, shards):
        save_file(shard, folder / file, metadata={"format": "pt"})


MODELS = {
    "llama-own-head": (SMALL, own_head),
    "llama-some-biases": (SMALL | dict(attention_bias=True, mlp_bias=True), some_biases),
    "llama-odd-files": (SMALL | dict(tie_word_embeddings=True), odd_types),
}


def make_directory(name):
    options, change = MODELS[name]
    folder = base.OUT / name
    folder.mkdir(parents=True)
    base.build(name, "llama", options).save_pretrained(folder)
    tensors = change(folder, load_file(folder / "model.safetensors"))
    if name == "llama-odd-files":
        (folder / "model.safetensors").unlink()
        write_index(folder, tensors, "")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    base.write_oracle(folder, model, base.token_ids(name, options["vocab_size"]))
    if name == "llama-odd-files":
        write_index(folder, tensors, "_orig_mod.")


def make_split_gguf(name):
    """A GGUF model in three files, with biases of q, k and v alone."""
    folder = base.OUT / name
    folder.mkdir(parents=True)
    model = base.build(name, "llama", SMALL | dict(attention_bias=True))
    without = [layer.self_attn.o_proj.bias for layer in model.model.layers]
    for bias in without:
        bias.data.zero_()
    writer_of, named_parameters = gguf.GGUFWriter, model.named_parameters
    gguf.GGUFWriter = lambda path, architecture: writer_of(path, architecture, split_max_tensors=11)
    model.named_parameters = lambda: [(key, weight) for key, weight in named_parameters()
                                      if not any(weight is bias for bias in without)]
    base.write_gguf(folder / "model.gguf", model, base.F16, None)
    model.named_parameters = named_parameters
    base.write_oracle(folder, model, base.token_ids(name, SMALL["vocab_size"]), gradients=False)


def main():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or [*MODELS, "llama-split-gguf"]:
        shutil.rmtree(base.OUT / name, ignore_errors=True)
        make_directory(name) if name in MODELS else make_split_gguf(name)
        size = sum(file.stat().st_size for file in (base.OUT / name).iterdir())
        print(f"{name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
