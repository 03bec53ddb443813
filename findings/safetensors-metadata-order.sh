#!/usr/bin/env bash
# Saving the same LoRA twice gives two files with different hashes.
#
# Version:   safetensors 0.8.0, torch 2.13.0.
# Guess:     A .safetensors file is its header and its tensors, so the same tensors and metadata give the same bytes.
# Behaviour: Tensors are sorted, metadata is not: with more than one entry, as trainers write dozens of, their order
#            changes from one save to the next, even in one process. Without metadata the bytes are the same each time. So
#            a hash of the whole file, by which WebUIs name models and find their previews, does not tell that a LoRA is
#            the same, and a file that was only loaded and saved again is a new one to them.
# Output seen (8 saves each):
#     entries of metadata: 0, hashes: 1, bytes after the header the same: True
#     entries of metadata: 1, hashes: 1, bytes after the header the same: True
#     entries of metadata: 8, hashes: 8, bytes after the header the same: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4 safetensors==0.8.0
venv/bin/python -W ignore - <<'END'
import hashlib
import sys

import torch
from safetensors.torch import save

tensors = {"lora_up.weight": torch.ones(2, 2), "alpha": torch.tensor(4.0)}
seen = []
for entries in (0, 1, 8):
    metadata = {f"ss_{number}": str(number) for number in range(entries)}
    files = [save(tensors, metadata) for _ in range(8)]
    hashes = {hashlib.sha256(file).hexdigest() for file in files}
    same = len({file[8 + int.from_bytes(file[:8], "little") :] for file in files}) == 1
    seen.append((len(hashes), same))
    print(f"entries of metadata: {entries}, hashes: {len(hashes)}, bytes after the header the same: {same}")
as_seen = seen[:2] == [(1, True)] * 2 and seen[2][0] > 1 and seen[2][1]
sys.exit(0 if as_seen else "this has changed")
END
