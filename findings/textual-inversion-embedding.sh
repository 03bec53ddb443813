#!/usr/bin/env bash
# torch.load refuses an embedding as textual inversion's own code saved it, though it holds nothing but tensors.
#
# Version:   torch 2.13.0.
# Guess:     The default weights_only=True is about code in files. A file with tensors alone loads; an embedding does, in
#            whichever of the usual layouts it comes.
# Behaviour: The original code keeps its vectors in a torch.nn.ParameterDict, which is saved as an object of that class, and
#            torch's own class is not on torch's list of what may be loaded; Parameter and dict are. The message
#            advises weights_only=False. Naming ParameterDict as safe is enough, and safe.
# Output seen:
#     vectors in a dict of tensors, as the WebUI saves them: loads
#     vectors in a dict of parameters: loads
#     vectors in a ParameterDict, as the original code saves them: UnpicklingError
#     the same with ParameterDict named as safe: loads
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4
venv/bin/python -W ignore - <<'END'
import io
import pickle
import sys

import torch
from torch import nn

vectors = torch.zeros(1, 768)
layouts = {
    "vectors in a dict of tensors, as the WebUI saves them": {"*": vectors},
    "vectors in a dict of parameters": {"*": nn.Parameter(vectors)},
    "vectors in a ParameterDict, as the original code saves them": nn.ParameterDict({"*": nn.Parameter(vectors)}),
}


def outcome(layout):
    file = io.BytesIO()
    torch.save({"string_to_token": {"*": 265}, "string_to_param": layout}, file)
    file.seek(0)
    try:
        return "loads" if torch.equal(torch.load(file)["string_to_param"]["*"], vectors) else "loads other values"
    except pickle.UnpicklingError as error:
        return type(error).__name__


seen = []
for name, layout in layouts.items():
    seen.append(outcome(layout))
    print(f"{name}: {seen[-1]}")
with torch.serialization.safe_globals([nn.ParameterDict]):
    seen.append(outcome(layout))
print(f"the same with ParameterDict named as safe: {seen[-1]}")
sys.exit(0 if seen == ["loads", "loads", "UnpicklingError", "loads"] else "this has changed")
END
