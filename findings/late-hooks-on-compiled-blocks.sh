#!/usr/bin/env bash
# After torch.compile a hook put on a block is not called, while a block that is exchanged is noticed.
#
# Version:   torch 2.13.0, with torch.compile's backend "eager", which needs no compiler.
# Guess:     Either compiled code is as it was made, so that neither is noticed, or torch watches what it depends on, so
#            that both are and the module is compiled again.
# Behaviour: Blocks are watched, hooks are not: one that is exchanged, or given another forward, takes effect at the next
#            call. A hook on a block that had none when it was compiled is silently left out, in the same setting in which
#            a hook on the whole module is called. It appears as soon as anything else, such as another batch size, makes
#            torch compile again. So that a first hook was heard says nothing about the next.
# Output seen:
#     hook on the whole module: called
#     hook on a block: not called
#     the same hook, at another batch size: called
#     block exchanged: noticed
#     block given another forward: noticed
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4
venv/bin/python -W ignore - <<'END'
import sys

import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def compiled():
    torch._dynamo.reset()
    network, calls = Network(), []
    fast = torch.compile(network, backend="eager")
    fast(x)
    return network, fast, calls


x = torch.ones(1, 2)
network, fast, calls = compiled()
network.register_forward_hook(lambda *args: calls.append(args))
fast(x)
whole = bool(calls)
network, fast, calls = compiled()
network.blocks[0].register_forward_hook(lambda *args: calls.append(args))
fast(x)
block = bool(calls)
fast(torch.ones(3, 2))
other_size = bool(calls)
network, fast, _ = compiled()
network.blocks[0] = torch.nn.Linear(2, 2)
exchanged = torch.equal(fast(x), network(x))
network, fast, _ = compiled()
network.blocks[0].forward = lambda x: x + 9
patched = torch.equal(fast(x), network(x))
called, noticed = ("not called", "called"), ("not noticed", "noticed")
print(f"hook on the whole module: {called[whole]}")
print(f"hook on a block: {called[block]}")
print(f"the same hook, at another batch size: {called[other_size]}")
print(f"block exchanged: {noticed[exchanged]}")
print(f"block given another forward: {noticed[patched]}")
sys.exit(0 if [whole, block, other_size, exchanged, patched] == [True, False, True, True, True] else "this has changed")
END
