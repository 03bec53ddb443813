#!/usr/bin/env bash
# More eta, less noise: DPM2 ancestral adds none at all above a certain eta.
#
# Version:   k-diffusion 0.1.1.post1, torch 2.13.0.
# Guess:     eta scales the noise of an ancestral sampler, so with more eta there is as much noise or more.
# Behaviour: sample_dpm_2_ancestral adds its noise only on the path that also makes the step's second evaluation. Where
#            eta asks for as much noise as the next level holds (from eta 1.06 on in a run of 5 steps), the step takes the
#            other path: one evaluation, and no noise, so the next input is far less noisy than the level it is
#            denoised for. sample_dpmpp_2s_ancestral takes such a step with one evaluation as well, but adds the noise.
#            So neither evaluations nor noise can be told from the sampler's name and its steps.
# Output seen (5 steps from 14.6 to 0.03):
#     dpm_2_ancestral     eta 1.0: 9 evaluations, noise added 4 times
#     dpm_2_ancestral     eta 1.1: 5 evaluations, noise added 0 times
#     dpmpp_2s_ancestral  eta 1.0: 9 evaluations, noise added 4 times
#     dpmpp_2s_ancestral  eta 1.1: 5 evaluations, noise added 4 times
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

sigmas = sampling.get_sigmas_karras(5, 0.03, 14.6)
seen = {}
for name in ("dpm_2_ancestral", "dpmpp_2s_ancestral"):
    for eta in (1.0, 1.1):
        calls = {"evaluations": 0, "noise": 0}

        def denoiser(x, sigma):
            calls["evaluations"] += 1
            return x / (1 + sigma[0] ** 2)

        def noise(sigma, sigma_next):
            calls["noise"] += 1
            return torch.randn(1, 4, 8, 8)

        x = torch.randn(1, 4, 8, 8) * sigmas[0]
        getattr(sampling, f"sample_{name}")(denoiser, x, sigmas, disable=True, eta=eta, noise_sampler=noise)
        seen[name, eta] = tuple(calls.values())
        print(f"{name:<18}  eta {eta}: {calls['evaluations']} evaluations, noise added {calls['noise']} times")
expected = [(9, 4), (5, 0), (9, 4), (5, 4)]
sys.exit(0 if list(seen.values()) == expected else "this has changed")
END
