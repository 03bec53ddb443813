#!/usr/bin/env bash
# A copy of a module keeps its hooks for good, and what they write to depends on how they were written.
#
# Version:   torch 2.13.0.
# Guess:     A deep copy is apart from its original: a hook that was removed is gone, and the copy's hooks, if it has any,
#            work on the copy's state.
# Behaviour: Hooks go along into the copy and its handle does not remove them there: nobody has a handle for them. A hook
#            that is a bound method or a partial gets a copy of its object. A hook that is a closure is the same function in
#            both, so each call of the copy writes to the original's state. The same holds for a closure set as `forward`:
#            the copy calls the original's forward, with the original's weights.
# Output seen:
#     hooks left on the original: 0, on its copy: 3
#     calls noted in the original's state by a call of the copy: method 0, partial 0, closure 1
#     a copy with its weights set to zero returns zero: forward untouched True, partial True, closure False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4
venv/bin/python -W ignore - <<'END'
import copy
import functools
import sys

import torch


class Counter:
    calls = 0

    def hook(self, *_):
        self.calls += 1


def count(counter, *_):
    counter.calls += 1


def closure_over(counter):
    return lambda *_: count(counter)


module, counters = torch.nn.Linear(2, 2), [Counter() for _ in range(3)]
hooks = counters[0].hook, functools.partial(count, counters[1]), closure_over(counters[2])
handles = [module.register_forward_hook(hook) for hook in hooks]
copied = copy.deepcopy(module)
for handle in handles:
    handle.remove()
left = len(module._forward_hooks), len(copied._forward_hooks)
copied(torch.ones(1, 2))
noted = [counter.calls for counter in counters]
print(f"hooks left on the original: {left[0]}, on its copy: {left[1]}")
print("calls noted in the original's state by a call of the copy:", end=" ")
print("method {}, partial {}, closure {}".format(*noted))


def untouched(module):
    pass


def partial(module):
    module.forward = functools.partial(lambda inner, x: inner(x), module.forward)


def closure(module):
    inner = module.forward
    module.forward = lambda x: inner(x)


zero = []
for change in (untouched, partial, closure):
    module = torch.nn.Linear(2, 2)
    change(module)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        copied.weight.zero_()
        copied.bias.zero_()
    zero.append(not copied(torch.ones(1, 2)).any())
print("a copy with its weights set to zero returns zero:", end=" ")
print("forward untouched {}, partial {}, closure {}".format(*zero))
as_seen = left == (0, 3) and noted == [0, 0, 1] and zero == [True, True, False]
sys.exit(0 if as_seen else "this has changed")
END
