"""The cells of an X/Y/Z plot: what they are asked, and what is left of it for other jobs."""

import copy
from types import SimpleNamespace

import pytest
from modules import processing, shared

from deepcache_ext.webui.plot_cells import override
from deepcache_ext.webui.reports import NOT_USED
from tests.webui.support import ON, Processing, full_and_reused, job, origins, sample


def test_values_of_an_xyz_plot_count(controller):
    p = Processing()
    override(p, {"interval": 2})
    assert origins(job(controller, p, ON)) == [0, 0, 2, 2, 4, 4]
    assert p.extra_generation_params["DeepCache interval"] == 2
    override(p, {"interval": 6})
    assert origins(job(controller, p, False)) == [0, 0, 0, 0, 0, 0]


def test_the_cells_of_a_plot_do_not_share_infotext(controller):
    """The plot makes shallow copies, which have one dictionary."""
    cells = [Processing() for _ in range(3)]
    for cell, overrides in zip(cells, ({"interval": 5}, {"interval": 0}, {"interval": 3}), strict=True):
        cell.extra_generation_params = cells[0].extra_generation_params
        override(cell, overrides)
        job(controller, cell, ON)
    assert cells[0].extra_generation_params["DeepCache interval"] == 5
    assert NOT_USED in cells[1].extra_generation_params
    assert cells[2].extra_generation_params == {
        "DeepCache enabled": True,
        "DeepCache preset": "Custom",
        "DeepCache correction": "on",
    }


def test_a_cell_that_fails_leaves_the_next_one_alone(controller):
    failed, following = Processing(), Processing()
    shared.state.begin()

    def fail(step):
        raise RuntimeError(step)

    controller.begin_job(failed, [ON])
    with pytest.raises(RuntimeError):
        sample(failed, during=fail)
    assert [done.name for done in controller.last_report.passes] == ["txt2img"]
    controller.begin_job(following, [ON | {"inner": False}])
    assert origins(sample(following)) == [0, 0, 0, 3, 3, 3]
    controller.end_job(following)
    assert full_and_reused(controller) == [("txt2img", 2, 4)]


@pytest.fixture
def jobs(monkeypatch):
    """Have the host make a job by what its processing object has as `make`."""
    monkeypatch.setattr(processing, "process_images_inner", lambda p: p.make(p))


def _cell(make, **more):
    p = Processing(**more)
    p.sampler = SimpleNamespace(p=p)  # as in the host, where nothing but the garbage collector frees it
    p.make = make
    return p


@pytest.mark.parametrize("inner", [True, False])
def test_a_cell_that_fails_after_sampling_leaves_the_next_ones_alone(jobs, controller, inner):  # noqa: ARG001
    settings = [{"enabled": True, "preset": "Fast", "steps": "0-9", "inner": inner}]

    def make(p):
        controller.begin_job(p, settings)
        sample(p, steps=20)
        if p is cells[0]:
            raise RuntimeError("the VAE is out of memory")
        controller.end_job(p)
        return [(done.name, done.plan) for done in controller.last_report.passes]

    shared.state.begin()
    cells = [_cell(make) for _ in range(3)]
    with pytest.raises(RuntimeError, match="VAE"):
        processing.process_images(cells[0])
    assert [processing.process_images(cell) for cell in cells[1:]] == [[("txt2img", "0-9")]] * 2


@pytest.mark.parametrize("copied", [True, False])
def test_an_inner_job_that_fails_after_sampling_leaves_the_outer_ones_next_batch(jobs, controller, copied):  # noqa: ARG001
    def make_inner(p):
        controller.begin_job(p, [ON])
        sample(p)
        raise RuntimeError("the VAE is out of memory")

    def make(p):
        controller.begin_job(p, [ON])
        for p.iteration in range(2):
            sample(p)
            inner = copy.copy(p) if copied else _cell(None, img2img=True)
            inner.make = make_inner
            with pytest.raises(RuntimeError, match="VAE"):
                processing.process_images(inner)
        controller.end_job(p)

    shared.state.begin()
    processing.process_images(_cell(make))
    name = "inner txt2img" if copied else "inner img2img"
    assert full_and_reused(controller) == [("txt2img", 2, 4), (name, 2, 4)] * 2


def test_an_axis_switches_its_cell_on_unless_it_is_the_one_that_switches(controller):
    cells = [Processing() for _ in range(3)]
    for cell, values in zip(cells, ({"interval": 3}, {"interval": 3, "enabled": "False"}, {}), strict=True):
        override(cell, values)
    answers = [origins(job(controller, cell, False)) for cell in cells]
    assert answers == [[0, 0, 0, 3, 3, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert [bool(cell.extra_generation_params) for cell in cells] == [True, False, False]


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("copied", [True, False])
def test_an_inner_job_of_a_plots_cell_has_the_cells_settings_and_leaves_its_next_batch(controller, filtered, copied):
    cell = Processing()
    override(cell, {"interval": 2, "inner": "True"})
    shared.state.begin()
    controller.begin_job(cell, [False])
    answers = [origins(sample(cell))]
    inner = copy.copy(cell) if copied else Processing()
    if not filtered:
        controller.begin_job(inner, [False])
    answers.append(origins(sample(inner)))
    if not filtered:
        controller.end_job(inner)
    answers.append(origins(sample(cell)))
    controller.end_job(cell)
    assert answers == [[0, 0, 2, 2, 4, 4]] * 3
    assert full_and_reused(controller) == [("txt2img", 3, 3), ("inner txt2img", 3, 3), ("txt2img", 3, 3)]
    assert controller.last_report.passes[2].reason == ""


def test_a_copy_of_a_cell_is_no_cell(controller):
    cell = Processing()
    override(cell, {"interval": 2})
    assert origins(job(controller, copy.copy(cell), ON)) == [0, 0, 0, 3, 3, 3]
