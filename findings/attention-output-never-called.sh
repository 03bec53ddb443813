#!/usr/bin/env bash
# The output layer of nn.MultiheadAttention is never called: hooks on it and forwards of its own have no effect.
#
# Version:   torch 2.13.0.
# Guess:     out_proj is a linear layer among the module's children, so it runs like any other: a hook on it sees the
#            attention's output, and a LoRA that exchanges it for a layer with a forward of its own takes effect.
# Behaviour: The attention reads out_proj's weight and bias and does the sum itself, in training and in evaluation. SD2's
#            and SDXL's OpenCLIP text encoders are made of this module: a LoRA on out_proj works there only if it changes
#            the weight.
# Output seen:
#     training    hook called: False, another forward has effect: False, another weight has effect: True
#     evaluation  hook called: False, another forward has effect: False, another weight has effect: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4
venv/bin/python -W ignore - <<'END'
import sys

import torch


class Negated(torch.nn.modules.linear.NonDynamicallyQuantizableLinear):
    """The class of the layer it stands in for, with a forward of its own."""

    def forward(self, x):
        return -super().forward(x)


x = torch.ones(1, 3, 8)
seen = []
for mode in ("training", "evaluation"):
    torch.manual_seed(1)
    attention, calls = torch.nn.MultiheadAttention(8, 2, batch_first=True), []
    attention.train(mode == "training")
    before = attention(x, x, x)[0]
    handle = attention.out_proj.register_forward_hook(lambda *args: calls.append(args))
    attention(x, x, x)
    handle.remove()
    original, attention.out_proj = attention.out_proj, Negated(8, 8)
    attention.out_proj.load_state_dict(original.state_dict())
    forward = not torch.equal(attention(x, x, x)[0], before)
    with torch.no_grad():
        attention.out_proj.weight.neg_()
    weight = not torch.equal(attention(x, x, x)[0], before)
    seen.append((bool(calls), forward, weight))
    print(f"{mode:<10}  hook called: {bool(calls)}, another forward has effect: {forward}, ", end="")
    print(f"another weight has effect: {weight}")
sys.exit(0 if seen == [(False, False, True)] * 2 else "this has changed")
END
