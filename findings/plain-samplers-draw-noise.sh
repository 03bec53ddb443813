#!/usr/bin/env bash
# Samplers without noise move the random generator, and an SDE sampler without eta does too.
#
# Version:   k-diffusion 0.1.1.post1, torch 2.13.0.
# Guess:     Euler, Heun and DPM2 without churn, and DPM fast and DPM++ 2M SDE with eta 0, add no noise, so they draw none.
# Behaviour: All of these but DPM++ 2M SDE draw noise of the picture's size at each step and multiply it by nothing or
#            throw it away. DPM++ 2M SDE draws one number, the seed of a tree that it never asks. DPM++ 2M and LMS draw
#            nothing. So whatever draws from the global generator after a run gets other numbers by the sampler's steps,
#            and watching torch.randn_like does not tell which samplers are random.
# Output seen (10 steps, or 10 evaluations for DPM fast):
#     euler         same result from two seeds: True, randn_like called 10 times, generator moved: True
#     heun          same result from two seeds: True, randn_like called 10 times, generator moved: True
#     dpm_2         same result from two seeds: True, randn_like called 10 times, generator moved: True
#     dpm_fast      same result from two seeds: True, randn_like called 4 times, generator moved: True
#     dpmpp_2m_sde  same result from two seeds: True, randn_like called 0 times, generator moved: True
#     dpmpp_2m      same result from two seeds: True, randn_like called 0 times, generator moved: False
#     lms           same result from two seeds: True, randn_like called 0 times, generator moved: False
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
start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * sigmas[0]


def denoiser(x, sigma):
    return x / (1 + sigma[0] ** 2)


def fast(model, x, sigmas, disable):
    return sampling.sample_dpm_fast(model, x, 0.03, 14.6, 10, disable=disable)


def sde(model, x, sigmas, disable):
    return sampling.sample_dpmpp_2m_sde(model, x, sigmas, disable=disable, eta=0.0)


samplers = {
    "euler": sampling.sample_euler,
    "heun": sampling.sample_heun,
    "dpm_2": sampling.sample_dpm_2,
    "dpm_fast": fast,
    "dpmpp_2m_sde": sde,
    "dpmpp_2m": sampling.sample_dpmpp_2m,
    "lms": sampling.sample_lms,
}
draws = 0
randn_like = torch.randn_like


def counted(*args, **kwargs):
    global draws
    draws += 1
    return randn_like(*args, **kwargs)


torch.randn_like = counted
seen = []
for name, sample in samplers.items():
    torch.manual_seed(1)
    before, draws = torch.get_rng_state(), 0
    first = sample(denoiser, start, sigmas, disable=True)
    moved, count = not torch.equal(before, torch.get_rng_state()), draws
    torch.manual_seed(2)
    same = torch.equal(first, sample(denoiser, start, sigmas, disable=True))
    seen.append((same, count, moved))
    print(f"{name:<12}  same result from two seeds: {same}, randn_like called {count} times, generator moved: {moved}")
expected = [(True, count, True) for count in (10, 10, 10, 4, 0)] + [(True, 0, False)] * 2
sys.exit(0 if seen == expected else "this has changed")
END
