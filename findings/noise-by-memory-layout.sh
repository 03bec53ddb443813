#!/usr/bin/env bash
# A latent's memory layout decides the noise of an ancestral sampler, so the same seed gives two pictures.
#
# Version:   k-diffusion 0.1.1.post1, torch 2.13.0.
# Guess:     channels_last is a matter of speed. The same values in another layout, with the same seed, give the same
#            picture.
# Behaviour: torch.randn_like keeps the layout of its input and fills memory in order, so its first numbers go to the
#            first channel in one layout and to the first pixel of all channels in the other. The sampler keeps the layout
#            of the latent it is given to the end. A sampler without noise is not touched.
# Output seen:
#     euler            contiguous and channels_last the same: True
#     euler_ancestral  contiguous and channels_last the same: False, mean difference 0.8 where the mean value is 0.6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4 scipy==1.15.3 tqdm==4.70.1 pillow==10.4.0 trampoline==0.1.2 safetensors==0.8.0
venv/bin/pip install -qq --no-compile --disable-pip-version-check --no-deps k-diffusion==0.1.1.post1 torchsde==0.2.6 torchdiffeq==0.2.5
venv/bin/python -W ignore - <<'END'
import importlib.util
import sys
import types

# The package's own __init__ wants training code. Its samplers do without, and never use the torchvision they import.
package = types.ModuleType("k_diffusion")
package.__path__ = importlib.util.find_spec("k_diffusion").submodule_search_locations
sys.modules["k_diffusion"] = package
for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = types.ModuleType(name)
from k_diffusion import sampling
import torch

sigmas = sampling.get_sigmas_karras(10, 0.03, 14.6)
start = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1)) * sigmas[0]


def denoiser(x, sigma):
    return x / (1 + sigma[0] ** 2)


def made(sample, layout):
    torch.manual_seed(1)
    return sample(denoiser, start.contiguous(memory_format=layout), sigmas, disable=True)


same = {}
for name in ("euler", "euler_ancestral"):
    first, second = (
        made(getattr(sampling, f"sample_{name}"), layout) for layout in (torch.contiguous_format, torch.channels_last)
    )
    same[name] = torch.equal(first, second)
    print(f"{name:<15}  contiguous and channels_last the same: {same[name]}", end="")
    print("" if same[name] else f", mean difference {float((first - second).abs().mean()):.1f}", end="")
    print("" if same[name] else f" where the mean value is {float(first.abs().mean()):.1f}", end="\n")
sys.exit(0 if list(same.values()) == [True, False] else "this has changed")
END
