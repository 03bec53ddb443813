"""What a pass returns for the output of a call: drawn after a reuse, and with what makes up for reuses before it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from deepcache_ext.correction.answer import answers
from deepcache_ext.correction.correction import Correction
from deepcache_ext.correction.payback import paybacks
from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.features.per_row import PerRow
from deepcache_ext.features.store import Call, RowStore, can_draw
from deepcache_ext.network.own_hooks import OwnHooks
from deepcache_ext.network.unet import head
from deepcache_ext.planning.sampler_run import Array, SamplerRun
from deepcache_ext.statistics import Statistics


class Settling:
    """Settles the outputs of a U-Net's calls, by the features in `store`.

    With `corrects`, and if `run` and `levels` are known, reuses are put right; see `correction.correction`.
    """

    def __init__(
        self, unet: nn.Module, store: RowStore, run: SamplerRun | None, levels: NoiseLevels | None, *, corrects: bool
    ) -> None:
        self._unet = unet
        self._store = store
        self._correction: Correction | None = None
        self._heard: OwnHooks | None = None
        self._from_layers: Any = None
        self._changed = False
        if corrects and run is not None and levels is not None:
            counts = _counts(run, levels)
            self._correction = Correction(paybacks(run, counts, answers(run, levels, counts)))

    @property
    def corrects(self) -> bool:
        """Whether reuses are put right."""
        return self._correction is not None

    def install(self) -> None:
        """Begin to hear what the U-Net's layers after its blocks return."""
        layers = head(self._unet)
        if self._correction is not None and layers is not None:
            self._heard = OwnHooks(layers)
            self._heard.add_after(self._hear)

    def remove(self) -> None:
        """Hear nothing any more, and forget what is owed."""
        if self._heard is not None:
            self._heard.remove()
        self._heard = self._from_layers = None
        self.clear()

    def _hear(self, _layers: nn.Module, _args: Any, output: Any) -> None:
        self._from_layers = output

    @property
    def nbytes(self) -> int:
        """Memory that is held for what is owed, in bytes."""
        return 0 if self._correction is None else self._correction.nbytes

    def clear(self) -> None:
        """Forget what is owed."""
        if self._correction is not None:
            self._correction.clear()

    def owes(self, index: int, call: Call) -> bool:
        """Tell whether evaluation `index` has to make up for anything in `call`."""
        return self._correction is not None and self._correction.owes(index, tuple(call.keys))

    def of_reuse(self, index: int, call: Call, output: Any) -> Any:
        """Return the output to go on with of a call that reused in evaluation `index`."""
        correction, is_of_layers = self._correction, output is self._from_layers
        self._from_layers = None
        output = self._store.drawn(call, output)
        if correction is None or not can_draw(output, call):
            return output
        if not is_of_layers:  # what somebody has made of it since would count as its error
            self._changed = True
            correction.leave()
            return output
        return correction.of_reuse(index, tuple(call.keys), call.x, call.times, output)

    def of_full(self, index: int, call: Call, output: Any, statistics: Statistics) -> Any:
        """Return the output to go on with of a call that ran in full in evaluation `index`; count what it put right."""
        correction, self._from_layers = self._correction, None
        if correction is None or not can_draw(output, call):
            return output
        layer = head(self._unet)
        statistics.listened |= layer is None and self.owes(index, call)

        def better(x: Tensor, times: PerRow) -> Tensor | None:
            feature = None if layer is None else self._store.between(call, x, times)
            return None if layer is None or feature is None else layer(feature.to(call.x.dtype))

        output = correction.of_full(index, tuple(call.keys), output, better)
        self.count(statistics)
        return output

    def count(self, statistics: Statistics) -> None:
        """Add to the statistics what was put right, or never will be, since this was called last."""
        correction = self._correction
        if correction is not None:
            statistics.corrected += correction.corrected
            statistics.uncorrected += correction.dropped
            statistics.listened |= self._changed
            correction.corrected = correction.dropped = 0


def is_told(run: SamplerRun, levels: NoiseLevels) -> bool:
    """Tell whether it is known what an output is to the sampler of a run: a denoised picture, or the noise."""
    return run.takes_denoised or run.takes_noise(levels.sigmas(np.array(run.levels)))


def times_of(run: SamplerRun, levels: NoiseLevels) -> tuple[float, ...]:
    """Return the timestep of each evaluation of a run; () where it is not known what its noise levels are."""
    if not is_told(run, levels):
        return ()
    found = levels.times(np.array(run.levels)) if run.takes_denoised else np.array(run.levels, dtype=np.float64)
    return tuple(found.tolist())


def _counts(run: SamplerRun, levels: NoiseLevels) -> Array:
    """Return what an output of the U-Net counts in that of the denoiser, of shape (evaluations,)."""
    if not run.takes_denoised:
        return np.array([levels.scales(float(time)).of_noise for time in run.levels], dtype=np.float64)
    sigmas = np.array(run.levels)
    return -sigmas / np.sqrt(1 + sigmas**2) if levels.prediction == "v" else -sigmas
