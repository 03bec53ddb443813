#!/usr/bin/env bash
# A second img2img run with DeepCacheSDHelper may begin with features of the first one's picture.
#
# Version:   deepcache 0.1.1, diffusers 0.41.0, torch 2.13.0.
# Guess:     The helper stays enabled from picture to picture, so each run begins with a full evaluation.
# Behaviour: The place in the timesteps at which the very first run began is kept until disable(). A later run that begins
#            at another place, as img2img does with another strength, has its full evaluations where the first run's
#            count has them. Until the first of those it takes the features that the run before left.
# Output seen (20 DDIM steps, interval 3):
#     first run, from step 10: in full 0, 3, 6, 9
#     second run, from step 11: in full 2, 5, 8
#     the same after disable and enable: in full 0, 3, 6
#     the second run's picture depends on what the first was of: True
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
from diffusers import DDIMScheduler, UNet2DConditionModel

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


def second_run(first_seed):
    helper = enabled(3)
    _, first = sample(DDIMScheduler(), 20, begin=10, seed=first_seed)
    picture, second = sample(DDIMScheduler(), 20, begin=11, seed=1)
    helper.disable()
    helper = enabled(3)
    _, fresh = sample(DDIMScheduler(), 20, begin=11, seed=1)
    helper.disable()
    return picture, first, second, fresh


picture, first, second, fresh = second_run(first_seed=2)
depends = not torch.equal(picture, second_run(first_seed=3)[0])
print("first run, from step 10: in full", ", ".join(map(str, first)))
print("second run, from step 11: in full", ", ".join(map(str, second)))
print("the same after disable and enable: in full", ", ".join(map(str, fresh)))
print(f"the second run's picture depends on what the first was of: {depends}")
as_seen = first == [0, 3, 6, 9] and second == [2, 5, 8] and fresh == [0, 3, 6] and depends
sys.exit(0 if as_seen else "this has changed")
END
