#!/usr/bin/env bash
# Saving the same LoRA twice gives two files with different hashes.
#
# Version:   safetensors 0.8.0, torch 2.13.0.
# Guess:     A .safetensors file is its header and its tensors, so the same tensors and metadata give the same bytes.
# Behaviour: Tensors are sorted, metadata is not: with more than one entry, as trainers write dozens of, their order
#            changes from process to process, and within one. Without metadata the bytes are the same each time. So a
#            hash of the whole file, by which WebUIs name models and find their previews, does not tell that a LoRA is the
#            same, and a file that was only loaded and saved again is a new one to them.
# Output seen (8 processes each):
#     0 entries of metadata: 1 hash
#     1 entry of metadata: 1 hash
#     8 entries of metadata: 8 hashes, the bytes after the header the same: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4 safetensors==0.8.0
venv/bin/python -W ignore - <<'END'
import hashlib
import subprocess
import sys

SAVED = """
import hashlib, sys, torch
from safetensors.torch import save
data = save({"lora_down.weight": torch.ones(2, 2)}, {f"ss_{n}": str(n) for n in range(int(sys.argv[1]))})
header = 8 + int.from_bytes(data[:8], "little")
print(hashlib.sha256(data).hexdigest(), hashlib.sha256(data[header:]).hexdigest())
"""
seen = {}
for entries in (0, 1, 8):
    runs = [
        subprocess.run([sys.executable, "-c", SAVED, str(entries)], check=True, capture_output=True, text=True).stdout.split()
        for _ in range(8)
    ]
    seen[entries], same = len({file for file, _ in runs}), len({tensors for _, tensors in runs}) == 1
    print(f"{entries} {'entry' if entries == 1 else 'entries'} of metadata: {seen[entries]}", end=" ")
    print(f"hash{'es' if seen[entries] > 1 else ''}", end="")
    print(f", the bytes after the header the same: {same}" if seen[entries] > 1 else "")
sys.exit(0 if seen[0] == seen[1] == 1 and seen[8] > 1 and same else "this has changed")
END
