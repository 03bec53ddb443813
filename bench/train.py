"""Train the small networks that closeness is judged on beside the demo's: their autoencoder, then each of them.

    python3 dev.py bench train autoencoder --pictures FOLDER
    python3 dev.py bench train emoji --pictures FOLDER
    python3 dev.py bench train clipart --pictures FOLDER

FOLDER has the unpacked packages that bench/parts/training_pictures.py names. Each takes about an hour on one core, and
writes its weights beside the demo's. "emoji" has SDXL's blocks and predicts the noise, "clipart" has SD2's and predicts
v; both work on latents of 128x128 pictures.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.parts.training_pictures import BACKGROUNDS, SIZE, Motifs, motifs
from demo import tiny_model, weights
from demo.autoencoder import FACTOR, LATENT_CHANNELS, Decoder, Encoder

SETS = ("emoji", "clipart")
SPECIAL = ("<null>", "<bos>", "<eos>")
WIDTH = 64
"""Of a word's embedding."""
LATENT_NOISE = 0.05
"""Added to latents while the autoencoder trains, so that near latents decode to near pictures."""
CROP = 64
"""Width and height of what the autoencoder sees of a picture while it trains."""
VIEWS = 6
"""Backgrounds and flips of each motif."""
DROPPED = 0.12
"""How often the prompt is left out, for classifier-free guidance."""
DECAY = 0.999
"""Of the running mean of the weights, which is what is kept."""

_COMMON = {"in_channels": LATENT_CHANNELS, "out_channels": LATENT_CHANNELS, "model_channels": 32, "num_res_blocks": 2}
_COMMON |= {"num_head_channels": 16, "use_linear_in_transformer": True, "context_dim": WIDTH, "use_checkpoint": False}
UNETS: dict[str, dict[str, Any]] = {
    "emoji": {
        "package": "sgm",
        "prediction": "eps",
        "unet": _COMMON | {"attention_resolutions": [4, 2], "channel_mult": [1, 2, 4], "transformer_depth": [1, 1, 3]},
    },
    "clipart": {
        "package": "ldm",
        "prediction": "v",
        "unet": _COMMON
        | {"image_size": 16, "attention_resolutions": [1, 2, 4], "channel_mult": [1, 2, 4, 4]}
        | {"use_spatial_transformer": True, "transformer_depth": 1, "legacy": False},
    },
}
SCHEDULE = {"type": "scaled_linear", "start": 0.00085, "end": 0.012, "steps": 1000}


def main() -> None:
    """Train what is named and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("autoencoder", *SETS))
    parser.add_argument("--pictures", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.what == "autoencoder":
        train_autoencoder([motifs(name, options.pictures) for name in SETS], options.minutes, options.batch)
    else:
        train_network(options.what, motifs(options.what, options.pictures), options.minutes, options.batch)


def train_autoencoder(sets: list[Motifs], minutes: float, batch: int) -> None:
    """Train encoder and decoder on all sets together, and write both."""
    encoder, decoder = Encoder(), Decoder()
    trained = nn.ModuleList([encoder, decoder])
    clock = _Clock(trained, minutes, 2e-3)
    while clock.goes_on():
        pictures = torch.cat([_pictures(one, torch.randint(len(one.kind), (batch // len(sets),))) for one in sets])
        top, left = (int(torch.randint(SIZE - CROP + 1, ())) for _ in range(2))
        pictures = pictures[:, :, top : top + CROP, left : left + CROP]
        with torch.autocast("cpu", torch.bfloat16):
            latents = functional.batch_norm(encoder(pictures).float(), None, None, training=True)
            decoded = decoder(latents + LATENT_NOISE * torch.randn_like(latents)).float()
        clock.step(functional.l1_loss(decoded, pictures) + functional.mse_loss(decoded, pictures))
    sample = torch.cat([_pictures(one, torch.randint(len(one.kind), (512,))) for one in sets])
    with torch.no_grad():
        latents = encoder(sample)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    last: Any = encoder.layers[-1]
    with torch.no_grad():  # latents of mean 0 and variance 1
        last.weight.div_(std.view(-1, 1, 1, 1))
        last.bias.sub_(mean).div_(std)
    kept = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    kept |= {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
    weights.save(kept, _autoencoder_file())


def train_network(name: str, found: Motifs, minutes: float, batch: int) -> None:
    """Train one network on the latents of its pictures, and write it with its configuration."""
    encoder = Encoder()
    kept = weights.load(_autoencoder_file())
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in kept.items() if k.startswith("encoder.")})
    latents, words = _latents(encoder, found)
    mean, std = latents.mean((0, 2, 3)), float(latents.std())
    latents = (latents - mean.view(-1, 1, 1)) / std
    vocabulary = [*SPECIAL, *found.kinds, *(f"bg-{colour}" for colour in BACKGROUNDS)]
    config = UNETS[name] | {
        "vocab": vocabulary,
        "context_tokens": 4,
        "null_token": 0,
        "schedule": SCHEDULE,
        "image": {
            "size": SIZE // FACTOR,
            "channels": LATENT_CHANNELS,
            "mean": mean.tolist(),
            "std": std,
            "decode": "rgb = clamp((decoder(x*std+mean)+1)/2)",
        },
        "autoencoder": _autoencoder_file().name,
        "styles": list(found.kinds),
        "backgrounds": list(BACKGROUNDS),
    }
    unet = tiny_model.unet_class(config["package"])(**config["unet"])
    embedding = nn.Embedding(len(vocabulary), WIDTH)
    trained = nn.ModuleDict({"unet": unet, "embedding": embedding})
    alphas = tiny_model.alphas_cumprod(SCHEDULE)
    clock = _Clock(trained, minutes, 6e-4)
    while clock.goes_on():
        chosen = torch.randint(len(latents), (batch,))
        times = torch.randint(len(alphas), (batch,))
        x, noise = latents[chosen], torch.randn(batch, *latents.shape[1:])
        signal, level = (part.sqrt().view(-1, 1, 1, 1) for part in (alphas[times], 1 - alphas[times]))
        wanted = noise if config["prediction"] == "eps" else signal * noise - level * x
        dropped = torch.rand(batch, 1) < DROPPED
        kinds = torch.where(dropped, 0, words[chosen])
        tokens = functional.pad(functional.pad(kinds, (1, 0), value=1), (0, 1), value=2)
        with torch.autocast("cpu", torch.bfloat16):
            found_output = unet(signal * x + level * noise, times, context=embedding(tokens))
        clock.step(functional.mse_loss(found_output.float(), wanted))
    config["loss"] = clock.loss
    files = tiny_model.files(name)
    kept = {f"model.diffusion_model.{key}": value for key, value in clock.mean["unet"].state_dict().items()}
    kept["cond_embed.weight"] = clock.mean["embedding"].weight.detach()
    weights.save(kept, files.with_suffix(".safetensors"))
    files.with_suffix(".json").write_text(json.dumps(config, indent=1), encoding="utf-8")


class _Clock:
    """Steps an optimizer for a time, at a rate that rises and falls; keeps the running mean of the weights."""

    def __init__(self, trained: nn.Module, minutes: float, rate: float) -> None:
        self.mean: Any = copy.deepcopy(trained)
        self.loss = math.nan
        self._trained = trained
        self._seconds = 60 * minutes
        self._rate = rate
        self._optimizer = torch.optim.AdamW(trained.parameters(), rate, weight_decay=1e-4)
        self._began = time.perf_counter()
        self._steps = 0

    def goes_on(self) -> bool:
        return time.perf_counter() - self._began < self._seconds

    def step(self, loss: Tensor) -> None:
        part = min(1.0, (time.perf_counter() - self._began) / self._seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * min(1.0, (self._steps + 1) / 200) * (0.02 + 0.98 * math.cos(part * math.pi / 2))
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._trained.parameters(), 1.0)
        self._optimizer.step()
        self._steps += 1
        decay = min(DECAY, self._steps / (self._steps + 10))
        with torch.no_grad():
            for kept, now in zip(self.mean.parameters(), self._trained.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)
        value = float(loss.detach())
        self.loss = value if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * value
        if self._steps % 100 == 0:
            print(f"{self._steps} steps, {100 * part:.0f} % of the time, loss {self.loss:.4f}", flush=True)


def _pictures(found: Motifs, chosen: Tensor) -> Tensor:
    backgrounds = torch.randint(len(BACKGROUNDS), chosen.shape)
    return found.on(chosen, backgrounds, torch.rand(len(chosen)) < 0.5)


@torch.no_grad()
def _latents(encoder: Encoder, found: Motifs) -> tuple[Tensor, Tensor]:
    """Return latents of `VIEWS` views of each motif, and the numbers of their two words, of shape (latents, 2)."""
    latents, words = [], []
    chosen = torch.arange(len(found.kind)).repeat(VIEWS)
    backgrounds = torch.randint(len(BACKGROUNDS), chosen.shape)
    flipped = torch.rand(len(chosen)) < 0.5
    first_kind, first_background = len(SPECIAL), len(SPECIAL) + len(found.kinds)
    for first in range(0, len(chosen), 128):
        part = slice(first, first + 128)
        latents.append(encoder(found.on(chosen[part], backgrounds[part], flipped[part])))
        words.append(torch.stack([found.kind[chosen[part]] + first_kind, backgrounds[part] + first_background], 1))
    return torch.cat(latents), torch.cat(words)


def _autoencoder_file() -> Path:
    return tiny_model.files("autoencoder").with_suffix(".safetensors")


if __name__ == "__main__":
    main()
