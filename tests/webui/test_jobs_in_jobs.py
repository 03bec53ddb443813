"""Jobs of several batches, cells that are off, and jobs inside others: each pass has the settings that are its own."""

import copy

import pytest
import torch
from modules import shared

from deepcache_ext.features.store import RowStore
from deepcache_ext.webui.plot_cells import override
from deepcache_ext.webui.reports import NOT_USED
from tests.webui.support import ON, Processing, full_and_reused, job, load_checkpoint, origins, sample

STORE = "deepcache_ext.features.store.RowStore.keep"


def fail(*_, **__):
    raise RuntimeError("out of memory")


def test_the_reason_of_one_batch_is_not_told_of_the_next(controller, monkeypatch):
    p = Processing()
    shared.state.begin()
    controller.begin_job(p, [ON])
    p.iteration = 0
    with monkeypatch.context() as patch:
        patch.setattr(STORE, fail)
        sample(p)
    assert "out of memory" in p.extra_generation_params[NOT_USED]
    p.iteration = 1
    assert origins(sample(p)) == [0, 0, 0, 3, 3, 3]
    assert NOT_USED not in p.extra_generation_params
    controller.end_job(p)


def test_a_job_inside_a_cell_that_is_off_is_off(controller):
    p = Processing()
    override(p, {"enabled": False})
    shared.state.begin()
    controller.begin_job(p, [ON])
    sample(p)
    inner = copy.copy(p)
    controller.begin_job(inner, [ON])
    assert origins(sample(inner)) == [0, 1, 2, 3, 4, 5]
    controller.end_job(inner)
    controller.end_job(p)
    assert controller.last_report is None
    assert origins(job(controller, Processing(), ON)) == [0, 0, 0, 3, 3, 3]


def test_a_list_beside_a_preset_is_not_for_a_job_inside_that_is_sent_the_same(controller):
    sent = {"enabled": True, "preset": "Balanced", "steps": "0, 4"}
    p, inner = Processing(), Processing(img2img=True)
    shared.state.begin()
    controller.begin_job(p, [sent])
    sample(p, steps=12)
    controller.begin_job(inner, [sent])
    sample(inner, steps=12)
    controller.end_job(inner)
    controller.end_job(p)
    plans = [done.plan for done in controller.last_report.passes]
    job(controller, Processing(img2img=True), {"enabled": True, "preset": "Balanced"}, steps=12)
    assert plans == ["0, 4", controller.last_report.passes[0].plan]


@pytest.mark.parametrize(("prediction", "depth"), [("eps", 0), ("x0", 1)])
def test_sdxl_presets_go_to_depth_0_only_where_reuses_are_put_right(controller, prediction, depth):
    load_checkpoint(is_sdxl=True, parameterization=prediction)
    job(controller, Processing(), {"enabled": True, "preset": "Balanced"}, steps=20)
    assert controller.last_report.passes[0].depth == depth


def test_after_an_error_of_ours_the_rest_of_the_run_is_counted(controller, monkeypatch):
    kept = []

    def keep(store, call, walks, output=None):
        kept.append(call)
        return fail() if len(kept) == 4 else real(store, call, walks, output)

    real = RowStore.keep
    monkeypatch.setattr(STORE, keep)
    job(controller, Processing(), ON | {"interval": 3}, steps=12)
    assert full_and_reused(controller) == [("txt2img", 6, 6)]
    (done,) = controller.last_report.passes
    assert (done.in_full, "out of memory" in done.reason) == ("0, 3, 6, 9-11", True)


def test_an_error_before_a_pass_begins_is_told(controller, monkeypatch):
    monkeypatch.setattr("deepcache_ext.webui.passes.RunningPass", fail)
    p = Processing()
    assert origins(job(controller, p, ON)) == [0, 1, 2, 3, 4, 5]
    sentence = "caching could not begin, RuntimeError: out of memory"
    assert p.extra_generation_params[NOT_USED] == controller.last_report.passes[0].reason == sentence


class OnMps(torch.Tensor):
    """A tensor on a device without double precision."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_sampler_is_asked_on_a_device_without_double_precision(controller, monkeypatch):
    monkeypatch.setattr(
        "deepcache_ext.planning.dry_run.torch.stack", lambda xs: torch.cat([x[None] for x in xs]).as_subclass(OnMps)
    )
    job(controller, Processing(), {"enabled": True, "preset": "Balanced"}, steps=20)
    (done,) = controller.last_report.passes
    assert (done.planned, done.reason) == (20, "")
    assert done.statistics.reused == 10
