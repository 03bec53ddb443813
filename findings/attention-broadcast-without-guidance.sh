#!/usr/bin/env bash
# diffusers' Pyramid Attention Broadcast gives the uncond call the attention of the cond call before it.
#
# Version:   diffusers 0.41.0, torch 2.13.0.
# Guess:     Pipelines that make cond and uncond calls apart name each with cache_context, so every cache keeps a
#            state for each of them, as First Block Cache does.
# Behaviour: Pyramid Attention Broadcast has one state for each attention and counts its calls. With a skip range of 2
#            a step's cond call computes and its uncond call gets the same output. As far as
#            the prompt reaches the picture through cross-attention alone, both are equal and guidance has no effect.
# Output seen (a small Wan transformer, both contexts at one timestep):
#     no cache                      guidance moves the output by 0.970
#     First Block Cache             guidance moves the output by 0.970
#     Pyramid Attention Broadcast   guidance moves the output by 0.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4 huggingface-hub==1.33.0 safetensors==0.8.0 regex==2026.9.29 requests==2.34.2 pillow==10.4.0 importlib-metadata==9.0.1
venv/bin/pip install -qq --no-compile --disable-pip-version-check --no-deps diffusers==0.41.0
venv/bin/python -W ignore - <<'END'
import sys

import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, WanTransformer3DModel

torch.manual_seed(1)
x, cond, uncond = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 5, 16), 3 * torch.randn(1, 5, 16)
caches = {
    "no cache": None,
    "First Block Cache": FirstBlockCacheConfig(threshold=0.1),
    "Pyramid Attention Broadcast": PyramidAttentionBroadcastConfig(
        cross_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
}
seen = []
for name, config in caches.items():
    torch.manual_seed(1)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    ).eval()
    if config is not None:
        transformer.enable_cache(config)
    outputs = []
    for context, prompt in (("cond", cond), ("uncond", uncond)):
        with torch.no_grad(), transformer.cache_context(context):
            outputs.append(transformer(x, torch.tensor([500]), prompt).sample)
    seen.append(float((outputs[0] - outputs[1]).abs().max()))
    print(f"{name:<28}  guidance moves the output by {seen[-1]:.3f}")
sys.exit(0 if seen[0] == seen[1] > 0.1 and seen[2] == 0 else "this has changed")
END
