"""Tiny random models of every architecture, with what Hugging Face transformers computes from them.

    python tests/oracle/make_models.py [NAME...]        # all models, or the named ones

writes tests/data/models/NAME/ as README.md beside this file describes. Deterministic: the same versions of torch and
transformers give the same bytes.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

OUT = Path(__file__).resolve().parent.parent / "data" / "models"
TOKENS, LONG = 28, 150  # the long ones cross pages of 64 positions

# Sizes that every model has unless it says otherwise. Windows are shorter than the sequence, so that they matter.
BASE = dict(vocab_size=80, hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=256, rms_norm_eps=1e-3, bos_token_id=1,
            eos_token_id=2, pad_token_id=None, tie_word_embeddings=False, attn_implementation="eager")
GEMMA = dict(tie_word_embeddings=True, rms_norm_eps=1e-4, query_pre_attn_scalar=8, bos_token_id=2, eos_token_id=1)
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# Heads as wide as real ones, in whole tiles, over several pages.
WIDE = dict(hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=64)

MODELS = {
    "llama": ("llama", dict(rope_parameters=PLAIN_ROPE, eos_token_id=[2, 5])),
    "llama-rope-llama3": ("llama", dict(tie_word_embeddings=True, num_hidden_layers=2, rope_parameters={
        "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64})),
    "llama-odd-bias": ("llama", dict(hidden_size=27, intermediate_size=41, vocab_size=83, num_attention_heads=3,
                                     num_key_value_heads=1, head_dim=14, attention_bias=True, mlp_bias=True,
                                     rope_parameters=PLAIN_ROPE)),
    "llama-rope-linear-v4": ("llama", dict(num_hidden_layers=2, num_key_value_heads=4, head_dim=6, rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5})),
    "llama-rope-yarn": ("llama", dict(num_hidden_layers=2, num_attention_heads=2, head_dim=16, rope_parameters={
        "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64,
        "beta_fast": 16.0, "beta_slow": 1.0})),
    "llama-bf16": ("llama", dict(num_hidden_layers=2, rope_parameters=PLAIN_ROPE)),
    "llama-text": ("llama", dict(vocab_size=320, hidden_size=32, intermediate_size=64, tie_word_embeddings=True,
                                 rope_parameters=PLAIN_ROPE, bos_token_id=0, eos_token_id=2)),
    "llama-wide": ("llama", WIDE | dict(rope_parameters=PLAIN_ROPE)),
    "gemma3-wide": ("gemma3_text", GEMMA | WIDE | dict(
        query_pre_attn_scalar=64, sliding_window=70, layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
                         "full_attention": {"rope_type": "default", "rope_theta": 100000.0}})),
    "mistral-window": ("mistral", dict(sliding_window=7, num_hidden_layers=2, rope_parameters=PLAIN_ROPE)),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True, num_hidden_layers=2,
                            rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "qwen2-window": ("qwen2", dict(use_sliding_window=True, sliding_window=6, max_window_layers=1,
                                   rope_parameters=PLAIN_ROPE)),
    "qwen3": ("qwen3", dict(head_dim=16, num_hidden_layers=2, rope_parameters={
        "rope_type": "default", "rope_theta": 1e6})),
    "qwen3-bias": ("qwen3", dict(attention_bias=True, num_hidden_layers=2, num_key_value_heads=1, head_dim=12,
                                 rope_parameters=PLAIN_ROPE)),
    "gemma": ("gemma", GEMMA | dict(num_key_value_heads=1, head_dim=12, num_hidden_layers=2,
                                    rope_parameters=PLAIN_ROPE)),
    "gemma2": ("gemma2", GEMMA | dict(query_pre_attn_scalar=11, sliding_window=7, attn_logit_softcapping=3.0,
                                      final_logit_softcapping=5.0, rope_parameters=PLAIN_ROPE)),
    "gemma3": ("gemma3_text", GEMMA | dict(
        query_pre_attn_scalar=10, sliding_window=5, num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
                         "full_attention": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 3.0}})),
    "gemma3-v4": ("gemma3_text", GEMMA | dict(
        sliding_window=6, num_key_value_heads=1, sliding_window_pattern=3,
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                         "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}})),
}

# GGUF files: as llama.cpp's convert_hf_to_gguf.py writes them. What a GGUF file cannot say (Gemma's pattern of windows,
# the local rotary base, the scale of the queries) has the value that llama.cpp takes for granted.
F32, F16, BF16, Q8_0 = (gguf.GGMLQuantizationType[t] for t in ("F32", "F16", "BF16", "Q8_0"))
GGUF_MODELS = {
    "llama-gguf": (F32, "llama", MODELS["llama"][1] | dict(num_hidden_layers=2)),
    "llama-odd-bias-gguf": (F16, "llama", MODELS["llama-odd-bias"][1] | dict(num_hidden_layers=2)),
    "llama-rope-llama3-gguf": (BF16, "llama", MODELS["llama-rope-llama3"][1]),
    "llama-rope-yarn-gguf": (F16, "llama", MODELS["llama-rope-yarn"][1]),
    "llama-text-gguf": (Q8_0, "llama", MODELS["llama-text"][1]),
    "qwen2-gguf": (F16, "qwen2", MODELS["qwen2"][1]),
    "qwen3-gguf": (Q8_0, "qwen3", MODELS["qwen3"][1] | dict(hidden_size=32, intermediate_size=64)),
    "gemma-gguf": (F16, "gemma", MODELS["gemma"][1]),
    "gemma2-gguf": (F16, "gemma2", MODELS["gemma2"][1] | dict(query_pre_attn_scalar=8)),
    "gemma3-gguf": (F16, "gemma3_text", GEMMA | dict(
        sliding_window=5, num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1,
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                         "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}})),
}


def build(name, model_type, options):
    """A model whose every weight matters: gains around their neutral value, biases that are not zero, attention far
    from uniform."""
    config = AutoConfig.for_model(model_type, **(BASE | options))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    random = torch.Generator().manual_seed(sum(name.encode()) * 7919)
    gemma = model_type.startswith("gemma")
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=random)
            if "norm" in key:
                weight.copy_(0.3 * noise + (0.0 if gemma else 1.0))
            elif key.endswith("bias"):
                weight.copy_(0.3 * noise)
            elif "embed_tokens" in key:
                weight.copy_(0.25 * noise)
            else:
                gain = 1.4 if "q_proj" in key or "k_proj" in key else 1.0
                weight.copy_(gain * noise / weight.shape[1] ** 0.5)
    return model


def token_ids(name, vocab_size):
    count = LONG if name.endswith("-wide") else TOKENS
    return np.random.default_rng(sum(name.encode())).integers(3, vocab_size, count).tolist()


def write_oracle(folder, model, ids, gradients=True):
    """oracle.json and oracle.safetensors: what transformers computes in float32."""
    layers = model.model.layers
    hidden = {}

    def before(index):
        return lambda module, args: hidden.__setitem__(f"hidden.{index}", args[0].detach()[0])

    def after(module, args, output):
        hidden[f"hidden.{len(layers)}"] = (output[0] if isinstance(output, tuple) else output).detach().reshape(
            len(ids), -1)

    hooks = [layer.register_forward_pre_hook(before(i)) for i, layer in enumerate(layers)]
    hooks.append(layers[-1].register_forward_hook(after))
    model.zero_grad()
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    loss.backward()
    tensors = {"logits": logits.detach(), "loss": loss.detach().reshape(1)} | hidden
    if gradients:
        wanted = ("model.embed_tokens.weight", "model.norm.weight", "layers.1.input_layernorm.weight",
                  "layers.1.self_attn.q_proj.weight", "layers.1.self_attn.q_proj.bias",
                  "layers.1.self_attn.k_norm.weight", "layers.1.mlp.down_proj.weight", "layers.1.mlp.down_proj.bias")
        for key, weight in model.named_parameters():
            if key.endswith(wanted):
                tensors["grad." + key] = weight.grad
    (folder / "oracle.json").write_text(json.dumps({"ids": ids}) + "\n")
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / "oracle.safetensors")


def to_version_4(folder, model_type):
    """Rewrites config.json with the keys of transformers 4."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.44.0"
    if model_type == "gemma3_text":
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["rope_scaling"] = None
        del config["layer_types"]
        config["sliding_window_pattern"] = 3
    else:
        config["rope_theta"] = rope.pop("rope_theta")
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope
        del config["head_dim"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_tokenizer(vocab_size):
    """Byte-level BPE in the manner of GPT-2, learnt from this file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False)
    tokenizer.train_from_iterator([TOKENIZER_TEXT], trainer)
    return tokenizer


TOKENIZER_TEXT = """The river is wide and the water is cold. There was once a child who lived by the river with her
mother and her brother, and in the evening they would sit at the window and look at the lights on the other side.
What do you think is there, said the brother. The same as here, said the mother, only the other way around."""

CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
                 "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
                 "{% endif %}")


def write_tokenizer(folder, tokenizer):
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "chat_template": CHAT_TEMPLATE},
        indent=2) + "\n")


def write_tokenizer_keys(writer, tokenizer):
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([gguf.TokenType.CONTROL if token.startswith("<|") else gguf.TokenType.NORMAL
                            for token, _ in vocab])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def interleave(weight, heads):
    """llama.cpp's order of the rows of q and k in Llama files: rotary pairs side by side instead of in halves."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(
        weight.shape)


def llama3_rope_factors(config):
    """By what llama.cpp divides each frequency (the tensor rope_freqs.weight)."""
    rope = config.rope_parameters
    dim, theta, old = config.head_dim, rope["rope_theta"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    wavelengths = 2 * np.pi * theta ** (np.arange(0, dim, 2) / dim)
    smooth = np.clip((old / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def write_metadata(writer, config):
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if config.model_type in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def write_gguf(path, model, quantisation, tokenizer):
    """Writes the model, and puts what a reader will decode back into it."""
    config = model.config
    architecture = {"gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    names = gguf.get_tensor_name_map(
        {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[architecture], config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    write_metadata(writer, config)
    writer.add_file_type({F32: 0, F16: 1, Q8_0: 7, BF16: 32}[quantisation])
    if tokenizer:
        write_tokenizer_keys(writer, tokenizer)
    if config.rope_parameters.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_rope_factors(config))
    for key, weight in model.named_parameters():
        plus_one = float("norm" in key and architecture.startswith("gemma"))
        values = weight.detach().numpy() + plus_one
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
        permuted = architecture == "llama" and heads is not None
        if permuted:
            values = interleave(values, heads)
        kind = quantisation if values.ndim == 2 else F32
        stored = gguf.quants.quantize(np.ascontiguousarray(values), kind)
        writer.add_tensor(names.get_name(key, (".weight", ".bias")), stored, raw_dtype=kind)
        decoded = gguf.quants.dequantize(stored, kind) - plus_one
        if permuted:
            half = weight.shape[0] // heads // 2
            decoded = decoded.reshape(heads, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
        weight.data = torch.tensor(decoded)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text_tokenizer(name, model):
    return make_tokenizer(model.config.vocab_size) if name.startswith("llama-text") else None


def make_directory(name):
    model_type, options = MODELS[name]
    folder = OUT / name
    folder.mkdir(parents=True)
    model = build(name, model_type, options)
    stored = copy.deepcopy(model)
    if name == "llama-bf16" or name.endswith("-wide"):  # half of the bytes
        stored = stored.to(torch.bfloat16)
        for weight, rounded in zip(model.parameters(), stored.parameters()):
            weight.data = rounded.data.float()
    stored.save_pretrained(folder, max_shard_size="30KB" if name == "qwen2-window" else "1GB")
    if tokenizer := text_tokenizer(name, model):
        write_tokenizer(folder, tokenizer)
    if name.endswith("-v4"):
        to_version_4(folder, model_type)
    ids = token_ids(name, model.config.vocab_size)
    write_oracle(folder, model, ids)

    # What was written is what was computed.
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        difference = (again(torch.tensor([ids])).logits - model(torch.tensor([ids])).logits).abs().max().item()
    assert difference == 0, f"{name}: reloaded logits differ by {difference}"


def make_gguf(name):
    quantisation, model_type, options = GGUF_MODELS[name]
    folder = OUT / name
    folder.mkdir(parents=True)
    model = build(name, model_type, options)
    write_gguf(folder / "model.gguf", model, quantisation, text_tokenizer(name, model))
    write_oracle(folder, model, token_ids(name, model.config.vocab_size), gradients=False)


def main():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or [*MODELS, *GGUF_MODELS]:
        shutil.rmtree(OUT / name, ignore_errors=True)
        make_directory(name) if name in MODELS else make_gguf(name)
        size = sum(file.stat().st_size for file in (OUT / name).iterdir())
        print(f"{name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
