"""Having the host make a job again with other settings: what comparing and tuning share."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from modules import shared
from PIL import Image

from deepcache_ext.webui.hosts import host

FEWEST_STEPS = 2
"""The fewest steps without DeepCache that anything is compared with."""


def copied(p: Any) -> Any:
    """Return a copy of the host's processing object `p` that a job may change."""
    job = copy(p)
    job.styles = list(p.styles or ())
    job.override_settings = dict(p.override_settings or {})
    job.extra_generation_params = dict(p.extra_generation_params)
    job.do_not_save_grid = True
    return job


def expect(runs: float) -> None:
    """Tell the host how many sampler runs there will be, for its progress and time left."""
    shared.state.job_count = round(runs)
    shared.state.processing_has_refined_job_count = True


def pictures_of(processed: Any, job: Any) -> list[Image.Image]:
    """Return the pictures that the host made in a job, without its grid, its masks and what extensions add at the end.

    There are none if it was interrupted or made fewer than it should have.
    """
    masks = 0
    if getattr(job, "mask_for_overlay", None) is not None:
        masks = bool(shared.opts.return_mask) + bool(shared.opts.return_mask_composite)
    count = job.n_iter * job.batch_size
    pictures = list(processed.images[processed.index_of_first_image :: 1 + masks])[:count]
    return [] if host.interrupted() or len(pictures) < count else pictures


def evaluations_by_steps(p: Any, sampler: str, scheduler: str, steps: int, *, kind: str) -> Mapping[int, int]:
    """Return how many evaluations a pass makes by the tab's steps, up to `steps`; none of a sampler that is silent.

    `kind` is "txt2img", "img2img" or "hires".
    """
    if not host.samplers.tells(sampler):
        return {}

    def evaluations(count: int) -> int | None:
        launched = host.samplers.img2img_steps(count, p.denoising_strength) if kind == "img2img" else count
        return host.samplers.evaluations(sampler, launched, img2img=kind != "txt2img", scheduler=scheduler)

    counts = {count: evaluations(count) for count in range(min(steps, FEWEST_STEPS), steps + 1)}
    return {count: found for count, found in counts.items() if found is not None}
