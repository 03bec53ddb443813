#!/usr/bin/env bash
# The handle of a hook removes nothing, and raises nothing, once the module's hooks lie in another dictionary.
#
# Version:   torch 2.13.0.
# Guess:     `handle = module.register_forward_hook(f)` and later `handle.remove()`: after that `f` is not called, whatever
#            others did to the module in between. If the handle can't find its hook, it raises.
# Behaviour: A handle knows the dictionary that its hook was put into, weakly, and not the module. Whoever assigns
#            `module._forward_hooks` anew, which recipes for removing hooks by their name do, cuts all handles off: `remove()`
#            returns as always, and the hook is called for good. A dictionary that is emptied or filled in place is fine. Used
#            as a context manager the handle leaves its hook behind in the same way. Such recipes also ask each hook for
#            `__name__`, which a callable object has none of.
# Output seen:
#     untouched: called 0 times after remove()
#     emptied and filled again in place: called 0 times after remove()
#     assigned anew: called 1 times after remove()
#     assigned anew, handle as a context manager: called 1 times after remove()
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


def leave(module):
    pass


def refill(module):
    hooks = dict(module._forward_hooks)
    module._forward_hooks.clear()
    module._forward_hooks.update(hooks)


def assign(module):
    module._forward_hooks = type(module._forward_hooks)(module._forward_hooks)


def calls_after_removal(change, in_context):
    module, calls = nn.Identity(), []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    if in_context:
        with handle:
            change(module)
    else:
        change(module)
        handle.remove()
    module(torch.ones(1))
    return len(calls)


CASES = {
    "untouched": (leave, False),
    "emptied and filled again in place": (refill, False),
    "assigned anew": (assign, False),
    "assigned anew, handle as a context manager": (assign, True),
}
found = {name: calls_after_removal(*case) for name, case in CASES.items()}
for name, calls in found.items():
    print(f"{name}: called {calls} times after remove()")
sys.exit(0 if [*found.values()] == [0, 0, 1, 1] else "this has changed")
END
