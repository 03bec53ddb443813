#!/usr/bin/env bash
# A run of one step: DPM++ 2M SDE and 3M SDE raise an error where DPM++ 2M returns the denoised picture.
#
# Version:   k-diffusion 0.1.1.post1, torch 2.13.0.
# Guess:     every sampler takes a list of noise levels of any length, down to a single step to 0, which img2img asks for
#            at a low denoising strength.
# Behaviour: sample_dpmpp_2m_sde and sample_dpmpp_3m_sde keep the size of a step at the end of each one, but work it out
#            only in steps that do not end at 0. So a run whose only step ends at 0 raises UnboundLocalError after it has
#            evaluated the network. sample_dpmpp_2m makes the same run.
# Output seen:
#     dpmpp_2m      1 evaluation, done
#     dpmpp_2m_sde  1 evaluation, UnboundLocalError
#     dpmpp_3m_sde  1 evaluation, UnboundLocalError
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

seen = {}
for name in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde"):
    evaluations = []

    def denoiser(x, sigma):
        evaluations.append(float(sigma[0]))
        return x / (1 + sigma[0] ** 2)

    try:
        getattr(sampling, f"sample_{name}")(denoiser, torch.randn(1, 4, 8, 8), torch.tensor([0.5, 0.0]), disable=True)
        end = "done"
    except UnboundLocalError as error:
        end = type(error).__name__
    seen[name] = len(evaluations), end
    print(f"{name:<12}  {len(evaluations)} evaluation, {end}")
expected = [(1, "done"), (1, "UnboundLocalError"), (1, "UnboundLocalError")]
sys.exit(0 if [*seen.values()] == expected else "this has changed")
END
