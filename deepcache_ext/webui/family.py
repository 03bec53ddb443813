"""The families of checkpoints that have a U-Net which can be cached."""

from typing import Literal

Family = Literal["SD1", "SD2", "SDXL"]
