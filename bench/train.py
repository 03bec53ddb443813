"""Train the networks that closeness is judged on beside the demo's: small ones on a CPU, larger ones on a card.

    python3 dev.py bench train autoencoder --data FOLDER
    python3 dev.py bench train emoji --data FOLDER
    python3 dev.py bench train clipart --data FOLDER

FOLDER has the unpacked packages that bench/parts/training_pictures.py names. Each takes about an hour on one core, and
writes its weights beside the demo's. "emoji" has SDXL's blocks and predicts the noise, "clipart" has SD2's and predicts
v; both work on latents of 128x128 pictures.

    python3 dev.py bench train photos --data FOLDER --device cuda --out FOLDER
    python3 dev.py bench train photos-xl --data FOLDER --device cuda --out FOLDER

FOLDER has a folder of pictures for each class, such as CIFAR-10's; they are made 32x32 pixels. Each takes five minutes
on a card, in steps of 512 pictures. "photos" has SD1's blocks, "photos-xl" SDXL's, both predict the noise. Judge a
sampler on them with `bench presets --weights FOLDER`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.parts.training_pictures import BACKGROUNDS, PHOTO_SIZE, SIZE, TINTS, Motifs, Photos, motifs, photos
from demo import tiny_model, weights
from demo.autoencoder import FACTOR, LATENT_CHANNELS, Decoder, Encoder

SETS = ("emoji", "clipart")
PHOTOS = ("photos", "photos-xl")
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
_OF_PHOTOS = {"in_channels": 3, "out_channels": 3, "model_channels": 64, "num_res_blocks": 2}
_OF_PHOTOS |= {"context_dim": WIDTH, "use_checkpoint": False}
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
    "photos": {
        "package": "ldm",
        "prediction": "eps",
        "unet": _OF_PHOTOS
        | {"image_size": PHOTO_SIZE, "attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 3, 4], "num_heads": 4}
        | {"use_spatial_transformer": True, "transformer_depth": 1, "legacy": False},
    },
    "photos-xl": {
        "package": "sgm",
        "prediction": "eps",
        "unet": _OF_PHOTOS
        | {"attention_resolutions": [4, 2], "channel_mult": [1, 2, 4], "transformer_depth": [1, 1, 3]}
        | {"num_head_channels": 32, "use_linear_in_transformer": True},
    },
}
SCHEDULE = {"type": "scaled_linear", "start": 0.00085, "end": 0.012, "steps": 1000}


def main() -> None:
    """Train what is named and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("autoencoder", *SETS, *PHOTOS))
    parser.add_argument("--data", type=Path, required=True, help="the folder of pictures or of unpacked packages")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--minutes", type=float, help="default 60, of photos 5")
    parser.add_argument("--batch", type=int, help="pictures a step (default 32, of photos 512)")
    parser.add_argument("--out", type=Path, help="folder for the network of photos (default: where the pictures are)")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.what in PHOTOS:
        found = photos(options.data).to(options.device)
        minutes, batch = options.minutes or 5, options.batch or 512
        train_on_photos(options.what, found, minutes, batch, options.out or options.data)
        return
    minutes, batch = options.minutes or 60, options.batch or 32
    if options.what == "autoencoder":
        train_autoencoder([motifs(name, options.data) for name in SETS], minutes, batch)
    else:
        train_on_latents(options.what, motifs(options.what, options.data), minutes, batch)


def train_autoencoder(sets: list[Motifs], minutes: float, batch: int) -> None:
    """Train encoder and decoder on all sets together, and write both."""
    encoder, decoder = Encoder(), Decoder()
    trained = nn.ModuleList([encoder, decoder])
    clock = _Clock(minutes, 2e-3)
    clock.start(trained)
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


def train_on_latents(name: str, found: Motifs, minutes: float, batch: int) -> None:
    """Train one network on the latents of its pictures, and write it with its configuration beside the demo's."""
    encoder = Encoder()
    kept = weights.load(_autoencoder_file())
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in kept.items() if k.startswith("encoder.")})
    latents, words = _latents(encoder, found)
    mean, std = latents.mean((0, 2, 3)), float(latents.std())
    latents = (latents - mean.view(-1, 1, 1)) / std
    image = {"size": SIZE // FACTOR, "channels": LATENT_CHANNELS, "mean": mean.tolist(), "std": std}
    image["decode"] = "rgb = clamp((decoder(x*std+mean)+1)/2)"
    config = UNETS[name] | {"image": image, "autoencoder": _autoencoder_file().name}

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(latents), (count,))
        return latents[chosen], words[chosen]

    _train(config, found.kinds, BACKGROUNDS, drawn, _Clock(minutes, 6e-4), batch, tiny_model.files(name))


def train_on_photos(name: str, found: Photos, minutes: float, batch: int, out: Path) -> None:
    """Train one network on pictures themselves, and write it with its configuration to the folder `out`."""
    mean, std = found.mean_and_std()
    image = {"size": PHOTO_SIZE, "channels": 3, "mean": mean, "std": std, "decode": "rgb = clamp((x*std+mean+1)/2)"}
    device = found.pictures.device

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(found.kind), (count,), device=device)
        pictures = found.pictures[chosen].float() / 127.5 - 1
        flipped = torch.rand(count, 1, 1, 1, device=device) < 0.5
        pictures = torch.where(flipped, pictures.flip(3), pictures)
        first_tint = len(SPECIAL) + len(found.kinds)
        return (pictures - mean) / std, torch.stack(
            [found.kind[chosen] + len(SPECIAL), found.tint[chosen] + first_tint], 1
        )

    _train(UNETS[name] | {"image": image}, found.kinds, TINTS, drawn, _Clock(minutes, 5e-4), batch, out / name)


def _train(
    config: dict[str, Any],
    kinds: Sequence[str],
    backgrounds: Sequence[str],
    drawn: Callable[[int], tuple[Tensor, Tensor]],
    clock: _Clock,
    batch: int,
    files: Path,
) -> None:
    """Train the network of `config` until `clock` ends, and write it with its configuration to `files`.

    `drawn` returns as many training pictures as it is asked for, and the numbers of their two words, of shape
    (pictures, 2).
    """
    vocabulary = [*SPECIAL, *kinds, *(f"bg-{background}" for background in backgrounds)]
    config = config | {"vocab": vocabulary, "context_tokens": 4, "null_token": 0, "schedule": SCHEDULE}
    config |= {"styles": list(kinds), "backgrounds": list(backgrounds)}
    device = drawn(1)[0].device
    unet = tiny_model.unet_class(config["package"])(**config["unet"])
    embedding = nn.Embedding(len(vocabulary), WIDTH)
    clock.start(nn.ModuleDict({"unet": unet, "embedding": embedding}).to(device))
    alphas = tiny_model.alphas_cumprod(SCHEDULE).to(device)
    while clock.goes_on():
        x, words = drawn(batch)
        times, noise = torch.randint(len(alphas), (batch,), device=device), torch.randn_like(x)
        signal, level = (part.sqrt().view(-1, 1, 1, 1) for part in (alphas[times], 1 - alphas[times]))
        wanted = noise if config["prediction"] == "eps" else signal * noise - level * x
        words = torch.where(torch.rand(batch, 1, device=device) < DROPPED, 0, words)
        tokens = functional.pad(functional.pad(words, (1, 0), value=1), (0, 1), value=2)
        with torch.autocast(device.type, torch.bfloat16):
            output = unet(signal * x + level * noise, times, context=embedding(tokens))
        clock.step(functional.mse_loss(output.float(), wanted))
    config |= {"loss": clock.loss, "steps": clock.steps, "batch": batch}
    kept = {f"model.diffusion_model.{key}": value for key, value in clock.mean["unet"].state_dict().items()}
    kept["cond_embed.weight"] = clock.mean["embedding"].weight.detach()
    files.parent.mkdir(parents=True, exist_ok=True)
    weights.save({key: value.cpu() for key, value in kept.items()}, files.with_suffix(".safetensors"))
    files.with_suffix(".json").write_text(json.dumps(config, indent=1), encoding="utf-8")


class _Clock:
    """Steps an optimizer for a time, at a rate that rises and falls; keeps the running mean of the weights."""

    mean: Any
    loss = math.nan
    steps = 0

    def __init__(self, minutes: float, rate: float) -> None:
        self._seconds = 60 * minutes
        self._rate = rate

    def start(self, trained: nn.Module) -> None:
        """Begin to count the time, for the parameters of `trained`."""
        self.mean = copy.deepcopy(trained)
        self._kept: list[Tensor] = list(self.mean.parameters())
        self._trained: list[Tensor] = list(trained.parameters())
        self._optimizer = torch.optim.AdamW(self._trained, self._rate, weight_decay=1e-4)
        self._began = time.perf_counter()

    def goes_on(self) -> bool:
        return time.perf_counter() - self._began < self._seconds

    def step(self, loss: Tensor) -> None:
        part = min(1.0, (time.perf_counter() - self._began) / self._seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * min(1.0, (self.steps + 1) / 200) * (0.02 + 0.98 * math.cos(part * math.pi / 2))
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self.steps += 1
        decay = min(DECAY, self.steps / (self.steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self._kept, self._trained, 1 - decay)
        value = float(loss.detach())
        self.loss = value if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * value
        if self.steps % 100 == 0:
            print(f"{self.steps} steps, {100 * part:.0f} % of the time, loss {self.loss:.4f}", flush=True)


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
