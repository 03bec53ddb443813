#!/usr/bin/env bash
# With Heun and an interval of 2, DeepCacheSDHelper refreshes once in a whole run.
#
# Version:   deepcache 0.1.1, diffusers 0.41.0, torch 2.13.0.
# Guess:     With cache_interval=2 every second evaluation is made in full, whatever the scheduler.
# Behaviour: The helper counts by the place of a timestep's first occurrence in the scheduler's list. Heun's list has
#            every timestep but the first twice, so the count goes 0, 1, 1, 3, 3, 5, 5, ... and is even at the first
#            evaluation only. The feature of pure noise is reused to the end. With an interval of 3 both evaluations of a
#            pair are made in full, one after the other.
# Output seen (10 steps):
#     Euler, 10 evaluations, interval 2, in full: 0, 2, 4, 6, 8
#     Heun, 19 evaluations, interval 2, in full: 0
#     Heun, 19 evaluations, interval 3, in full: 0, 3, 4, 9, 10, 15, 16
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4 huggingface-hub==1.33.0 safetensors==0.8.0 regex==2026.9.29 requests==2.34.2 pillow==10.4.0 importlib-metadata==9.0.1
venv/bin/pip install -qq --no-compile --disable-pip-version-check --no-deps diffusers==0.41.0 deepcache==0.1.1
venv/bin/python -W ignore - <<'END'
import sys
from types import SimpleNamespace

import torch
from DeepCache import DeepCacheSDHelper
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler, UNet2DConditionModel

torch.manual_seed(1)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, attention_head_dim=4,
    cross_attention_dim=16, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
).eval()
prompt = torch.randn(1, 5, 16)
pipe = SimpleNamespace(unet=unet, scheduler=None)  # all that the helper asks of a pipeline
whole = []
unet.mid_block.resnets[0].register_forward_hook(lambda *_: whole.__setitem__(-1, True))


@torch.no_grad()
def sample(scheduler, steps, begin=0, seed=1):
    """Return the latent, and which evaluations ran the middle block."""
    scheduler.set_timesteps(steps)
    pipe.scheduler = scheduler
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) * scheduler.init_noise_sigma
    whole.clear()
    for timestep in scheduler.timesteps[begin:]:
        whole.append(False)
        noise = unet(scheduler.scale_model_input(x, timestep), timestep, encoder_hidden_states=prompt).sample
        x = scheduler.step(noise, timestep, x).prev_sample
    return x, [number for number, ran in enumerate(whole) if ran]


def enabled(interval):
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    return helper


seen = []
for name, kind, interval in (
    ("Euler", EulerDiscreteScheduler, 2),
    ("Heun", HeunDiscreteScheduler, 2),
    ("Heun", HeunDiscreteScheduler, 3),
):
    helper = enabled(interval)
    _, full = sample(kind(), 10)
    helper.disable()
    seen.append(full)
    print(f"{name}, {len(whole)} evaluations, interval {interval}, in full:", ", ".join(map(str, full)))
sys.exit(0 if seen == [[0, 2, 4, 6, 8], [0], [0, 3, 4, 9, 10, 15, 16]] else "this has changed")
END
