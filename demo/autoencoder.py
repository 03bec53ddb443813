"""A small autoencoder: pictures of 128x128 RGB to latents of 4 channels and 16x16, and back."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

LATENT_CHANNELS = 4
FACTOR = 8
"""Width and height of a picture over those of its latent."""


class Encoder(nn.Module):
    """Pictures from -1 to 1, of shape (n, 3, 8 h, 8 w), to latents of shape (n, 4, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 64, 3, padding=1),
            Residual(64),
            nn.Conv2d(64, 96, 3, stride=2, padding=1),
            Residual(96),
            Residual(96),
            nn.Conv2d(96, LATENT_CHANNELS, 3, padding=1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.layers(pictures)
        return latents


class Decoder(nn.Module):
    """Latents of shape (n, 4, h, w) to pictures, -1 to 1 or a little beyond, of shape (n, 3, 8 h, 8 w)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, 128, 3, padding=1),
            Residual(128),
            Residual(128),
            nn.Conv2d(128, 4 * 64, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(64),
            Residual(64),
            nn.Conv2d(64, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self.layers(latents)
        return pictures


class Residual(nn.Module):
    """Two convolutions around which the input goes on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, h: Tensor) -> Tensor:
        changed: Tensor = self.second(functional.silu(self.first(functional.silu(h))))
        return h + changed
