"""SmolLM2-135M in plain PyTorch, trained as one would: float32 weights, bf16 by autocast or float32 throughout,
scaled_dot_product_attention, fused AdamW. Writes one line of JSON: seconds of each step. Called by against_torch.py."""
import argparse
import json
import time

import torch
from torch import nn
from torch.nn import functional

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCAB, LAYERS, THETA = 576, 9, 3, 64, 1536, 49152, 30, 1e5


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.RMSNorm(HIDDEN), nn.RMSNorm(HIDDEN)
        self.q = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)
        self.gate = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.up = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.down = nn.Linear(INTERMEDIATE, HIDDEN, bias=False)

    def attention(self, x, cosines, sines):
        def heads(y):
            return y.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)

        def rotated(y):
            first, second = y.chunk(2, -1)
            return y * cosines + torch.cat((-second, first), -1) * sines

        mixed = functional.scaled_dot_product_attention(rotated(heads(self.q(x))), rotated(heads(self.k(x))),
                                                        heads(self.v(x)), is_causal=True, enable_gqa=True)
        return self.o(mixed.transpose(1, 2).flatten(2))

    def forward(self, h, cosines, sines):
        h = h + self.attention(self.attention_norm(h), cosines, sines)
        x = self.ffn_norm(h)
        return h + self.down(functional.silu(self.gate(x)) * self.up(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN)

    def forward(self, ids):
        frequencies = THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(ids.shape[1]), frequencies).repeat(1, 2)
        cosines, sines = angles.cos().bfloat16(), angles.sin().bfloat16()
        h = self.embedding(ids)
        for layer in self.layers:
            h = layer(h, cosines, sines)
        return functional.linear(self.norm(h), self.embedding.weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--float32", action="store_true", help="without autocast: the faster way where no unit multiplies bf16")
    parser.add_argument("--distil", action="store_true", help="KL to a teacher of the same size instead of cross-entropy")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Model()
    teacher = Model().requires_grad_(False) if options.distil else None
    if teacher is not None and not options.float32:
        teacher = teacher.bfloat16()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def loss_of(ids):
        logits = model(ids).flatten(0, 1).float()
        if teacher is None:
            return functional.cross_entropy(logits, ids.flatten())
        with torch.no_grad():
            target = functional.log_softmax(teacher(ids).flatten(0, 1).float(), -1)
        return functional.kl_div(functional.log_softmax(logits, -1), target, log_target=True, reduction="batchmean")

    loss = torch.compile(loss_of) if options.compile else loss_of
    ids = torch.randint(0, VOCAB, (options.batch, options.context))
    seconds = []
    for _ in range(options.steps):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=not options.float32):
            value = loss(ids)
        value.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds}))


main()
