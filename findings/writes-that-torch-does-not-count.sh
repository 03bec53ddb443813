#!/usr/bin/env bash
# Which ways to change a weight torch's version counter sees.
#
# Version:   torch 2.13.0.
# Guess:     A tensor's `_version`, by which torch itself finds out that a tensor was written into, goes up with every write
#            and with nothing else. So a cache of something that was computed from weights can tell by it that it is stale.
# Behaviour: What goes through `.data` is not counted, also where torch does it: `nn.utils.vector_to_parameters` and
#            `Module.half` change every weight and no counter. What goes through `.detach()`, which shares memory just as
#            `.data` does, is counted, and so is `load_state_dict`, but not with `assign=True`, which puts other tensors in
#            place, new ones at 0. Adding nothing counts.
# Output seen:
#     counted once: add_, add_ of 0, detach().add_, out=, foreach, init, load_state_dict
#     not counted: data.add_, data = other, numpy(), vector_to_parameters, half
#     other tensors: load_state_dict(assign=True)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4
venv/bin/python -W ignore - <<'END'
import sys

import torch
from torch import nn

ONES = torch.ones(2, 2)
STATE = {"weight": ONES, "bias": torch.ones(2)}


def to_numpy(layer):
    layer.weight.numpy()[:] = 1


def other_data(layer):
    layer.weight.data = ONES.clone()


WAYS = {
    "add_": lambda layer: layer.weight.add_(1),
    "add_ of 0": lambda layer: layer.weight.add_(0),
    "detach().add_": lambda layer: layer.weight.detach().add_(1),
    "out=": lambda layer: torch.add(layer.weight, 1, out=layer.weight),
    "foreach": lambda layer: torch._foreach_add_([layer.weight], 1.0),
    "init": lambda layer: nn.init.ones_(layer.weight),
    "load_state_dict": lambda layer: layer.load_state_dict(STATE),
    "data.add_": lambda layer: layer.weight.data.add_(1),
    "data = other": other_data,
    "numpy()": to_numpy,
    "vector_to_parameters": lambda layer: nn.utils.vector_to_parameters(torch.ones(6), layer.parameters()),
    "half": lambda layer: layer.half(),
    "load_state_dict(assign=True)": lambda layer: layer.load_state_dict(STATE, assign=True),
}
found = {"counted once": [], "not counted": [], "other tensors": []}
for name, change in WAYS.items():
    layer = nn.Linear(2, 2).requires_grad_(False)
    weight, before = layer.weight, layer.weight._version
    change(layer)
    kind = "other tensors" if layer.weight is not weight else ("not counted", "counted once")[weight._version - before]
    found[kind].append(name)
for kind, names in found.items():
    print(f"{kind}: {', '.join(names)}")
as_seen = {
    "counted once": ["add_", "add_ of 0", "detach().add_", "out=", "foreach", "init", "load_state_dict"],
    "not counted": ["data.add_", "data = other", "numpy()", "vector_to_parameters", "half"],
    "other tensors": ["load_state_dict(assign=True)"],
}
sys.exit(0 if found == as_seen else "this has changed")
END
