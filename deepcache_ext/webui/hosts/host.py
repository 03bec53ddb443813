"""What is asked of a host, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.features.rows import Batch
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.hosts.samplers import Samplers


@dataclass(frozen=True)
class Loaded:
    """The checkpoint whose weights are in force, as far as caching is concerned; equal while neither changes."""

    unet: nn.Module | None
    """None if the checkpoint has none that could be cached, or none is loaded."""
    weights: Any
    """What tells its weights from others that the same module may hold."""
    family: Family = "SD1"
    """SD1 while none is loaded."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loaded) and other.unet is self.unet and bool(other.weights == self.weights)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Evaluation:
    """What the host tells when its denoiser begins an evaluation; see `SamplingPass.start_evaluation` and `say`."""

    keys: tuple[Hashable, ...]
    """Of its rows, in the order of the U-Net's calls."""
    batch: Batch
    partial: bool
    """Whether unconds are left out of this evaluation but not of the next."""
    heard_at: nn.Module | None
    """The module that is called for each U-Net call, with what tells the rows; None where there is none."""
    keys_of: Callable[[Sequence[Any], Mapping[str, Any]], Sequence[Hashable] | None]
    """Returns the keys of the rows that a call of it is for, from its arguments; None if it is for none with a key."""
    exact: bool = True
    """Whether the calls are for all of `keys` and no others; else these are what to expect."""


class Host(Protocol):
    """A WebUI: its checkpoint, its samplers and how an evaluation of its denoiser becomes U-Net calls."""

    samplers: Samplers
    """What is known of its samplers."""
    counts_blocks: bool
    """Whether its own forward counts the blocks, adds to what they return or goes through their layers."""

    def loaded(self) -> Loaded:
        """Return the checkpoint in force. Loads none."""

    def checkpoint(self) -> str:
        """Return the hash of the checkpoint in force, its name where the host makes no hashes; "" while none is."""

    def data_folder(self) -> Path:
        """Return the folder of the user's data."""

    def noise_levels(self) -> NoiseLevels | None:
        """Return what the timesteps and outputs of the checkpoint in force mean; None if it does not tell."""

    def obstacle(self) -> str:
        """Return why the U-Net in force can't be cached now, as a sentence without its full stop, or ""."""

    def makes_without_samplers(self) -> str:
        """Return what makes the pictures in the place of the host's samplers, none of which runs then, or ""."""

    def job_id(self) -> Any:
        """Return what tells one job of the user from the next; the jobs made inside it have the same."""

    def interrupted(self) -> bool:
        """Tell whether the user has interrupted or skipped the job that runs."""

    def prompts_change(self, sampler: Any) -> bool:
        """Tell whether a prompt that the run of `sampler` is conditioned on is another one later on."""

    def evaluation(self, params: Any, sigma: Tensor | None = None) -> Evaluation:
        """Return what `params`, those of the denoiser's callback, tell of the evaluation that begins.

        `sigma` are the noise levels that the denoiser was called with, of shape (pictures,), where that was heard: the
        host decides by these, whatever somebody has made of the callback's.
        """

    def in_force(self, p: Any, sigma: Tensor) -> Any:
        """Return what tells the U-Net in force in a job from another: its LoRAs and what else, and the controls on.

        It is asked at a call of the U-Net, at noise levels `sigma` of shape (rows,), and is equal to what it was before
        while none of them changes.
        """

    def control_models(self, p: Any) -> list[Any]:
        """Return the control models that the U-Net's forward calls in a job; none where there are no such."""

    def controls_ahead(self) -> list[Any]:
        """Return the control models that are called before the U-Net, whose call takes their residuals out of lists."""

    def is_own(self, hook: Any) -> bool:
        """Tell whether a hook on a layer of the U-Net is the host's, as those are that move weights (--lowvram)."""

    def wrap_sampling(self, run: Callable[[Callable[..., Any], Any, int, Callable[[], Any]], Any]) -> None:
        """Have `run(original, sampler, steps, func)` called in the place of every sampler's launch_sampling."""

    def unwrap_sampling(self) -> None:
        """Take back what `wrap_sampling` did, if it did."""

    def tell_ends_of_jobs(self, ended: Callable[[Any], None]) -> None:
        """Have `ended(p)` called when the job of a processing object `p` is over, also by an exception."""

    def tell_no_ends_of_jobs(self) -> None:
        """Take back what `tell_ends_of_jobs` did, if it did."""
