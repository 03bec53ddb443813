"""The cells of an X/Y/Z plot: what they are asked, and what is left of it for other jobs."""

import copy

import pytest
from modules import shared

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
