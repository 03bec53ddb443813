"""Which rows the host hands to the U-Net: their keys from its schedules, and what is its own cut of its batch."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from modules import script_callbacks, sd_models, shared
from torch import nn

from deepcache_ext.statistics import OTHERS, SWITCHED
from deepcache_ext.webui.hosts import a1111
from deepcache_ext.webui.reports import NOT_USED
from tests.webui.support import Processing, evaluated

ONE = torch.ones(1)


def schedule(*ends):
    return [SimpleNamespace(end_at_step=end, cond=None) for end in ends]


def prompts(*of_pictures):
    """Return conds as the host has them, each picture's prompts given by the ends of their schedules' entries."""
    batch = [[SimpleNamespace(schedules=schedule(*ends)) for ends in picture] for picture in of_pictures]
    return SimpleNamespace(batch=batch)


class Inner(nn.Module):
    """What the host's denoiser hands its rows to."""

    def forward(self, x, sigma):  # noqa: ARG002 - as the host calls it
        return sd_models.model_data.sd_model.model.diffusion_model(0.5 * x, torch.full((len(x),), 500.0))


def params_at(step, *, conds=None, unconds=2, rows=4, texts=2, extra=None, sampler=None, inner=None):
    """Return the parameters of the denoiser's callback at a step."""
    conds = conds or prompts(*[[(20,)]] * texts)
    given = {"cond": conds, "uncond": [schedule(20)] * unconds, "s_min_uncond": 0} | (extra or {})
    sampler = sampler or SimpleNamespace()
    sampler.sampler_extra_args = given
    denoiser = SimpleNamespace(sampler=sampler, step=step, total_steps=20, inner_model=inner)
    x = torch.full((rows, 2, 8, 8), float(step))
    return script_callbacks.CFGDenoiserParams(
        x, None, torch.ones(1), step, 20, torch.zeros(texts, 77, 8), None, denoiser
    )


def test_a_key_has_the_kind_the_picture_the_prompt_and_what_is_in_force():
    conds = prompts([(20,), (5, 20)], [(3, 6, 20)])
    found = {step: a1111.rows(params_at(step, conds=conds, rows=5, texts=3), ONE) for step in (3, 4, 6)}
    unconds = (("uncond", 0, 0), ("uncond", 1, 0))
    assert found[3] == (("cond", 0, 0, 0), ("cond", 0, 1, 0), ("cond", 1, 0, 0), *unconds)
    assert found[4] == (("cond", 0, 0, 0), ("cond", 0, 1, 0), ("cond", 1, 0, 1), *unconds)
    assert found[6] == (("cond", 0, 0, 0), ("cond", 0, 1, 1), ("cond", 1, 0, 1), *unconds)


def test_an_editing_checkpoint_has_the_pictures_own_rows_between():
    kinds = [key[0] for key in a1111.rows(params_at(0, rows=6), ONE)]
    assert kinds == ["cond", "cond", "image", "image", "uncond", "uncond"]


@pytest.mark.parametrize(
    ("early", "minimum", "all_steps", "left_out"),
    [(0.0, 0, False, []), (0.1, 0, False, [0, 1, 2]), (0.0, 2, False, [1, 3]), (0.0, 2, True, [0, 1, 2, 3])],
    ids=["neither", "Skip Early CFG", "NGMS", "NGMS, all steps"],
)
def test_unconds_that_the_host_leaves_out_have_no_keys(monkeypatch, early, minimum, all_steps, left_out):
    monkeypatch.setattr(shared.opts, "skip_early_cond", early, raising=False)
    monkeypatch.setattr(shared.opts, "s_min_uncond_all", all_steps)
    found = [len(a1111.rows(params_at(step, extra={"s_min_uncond": minimum}), ONE)) for step in range(4)]
    assert [step for step, rows in enumerate(found) if rows == 2] == left_out
    assert {*found} <= {2, 4}


def test_conds_that_somebody_has_put_in_are_told_by_their_place():
    found = a1111.rows(params_at(0, conds=prompts([(20,)], [(20,)]), rows=5, texts=3), ONE)
    assert found[:3] == (("cond", 0), ("cond", 1), ("cond", 2))


def test_a_part_is_told_by_its_memory():
    params = params_at(0, rows=6)
    x = params.x
    parts = (x, x[:-2], x[:-2][1:3], x[[0, 1]], x.clone(), x[:, :1], x[..., :4], x[::2])
    assert [a1111.part_of(part, params) for part in parts] == [
        slice(0, 6), slice(0, 4), slice(1, 3), None, None, None, None, None,
    ]  # fmt: skip


def run(controller, evaluate, steps=6, **options):
    """Run a job whose denoiser hands over rows by `evaluate(x, inner, step)`; return the pass's report and the job."""
    p, inner = Processing(), Inner()

    def answers_of(params, step):
        return [int(value) for out in evaluate(params.x, inner, step) for value in 2 * out[:, 0, 0, 0]]

    answers = evaluated(controller, p, partial(params_at, inner=inner, **options), answers_of, steps)
    assert not inner._forward_pre_hooks
    (done,) = controller.last_report.passes
    return answers, done, p


CUTS = {
    "one call": lambda x, inner, _step: [inner(x, 1)],
    "a call for each kind": lambda x, inner, _step: [inner(x[:2], 1), inner(x[2:], 1)],
    "calls in another order": lambda x, inner, _step: [inner(x[2:], 1), inner(x[:2], 1)],
    "cut anew each time": lambda x, inner, step: [inner(part, 1) for part in x.split(1 + step % 4)],
    "a guidance of its own after": lambda x, inner, _step: [inner(x, 1), inner(x[:2].clone(), 1)],
}


@pytest.mark.parametrize("cut", CUTS)
def test_the_hosts_own_cuts_are_cached(controller, cut):
    answers, done, p = run(controller, CUTS[cut])
    assert [{*answer} for answer in answers] == [{0}, {0}, {0}, {3}, {3}, {3}]
    assert (done.statistics.reused, done.statistics.missed, done.reason) == (4, 0, "")
    assert NOT_USED not in p.extra_generation_params


OTHERS_CUTS = {
    "windows": lambda x, inner, step: [inner(x[[step % 2, 2 + step % 2]], 1) for _ in range(2)],
    "windows as large as the batch": lambda x, inner, step: [inner(x[[step % 2, 1 - step % 2, 2, 3]], 1)],
    "tiles": lambda x, inner, _step: [inner(x[..., :4, :4], 1), inner(x[..., 4:, 4:], 1)],
    "rows left out": lambda x, inner, _step: [inner(x[:2], 1)],
}


@pytest.mark.parametrize("cut", OTHERS_CUTS)
def test_anything_else_is_computed_in_full_and_said(controller, cut, capsys):
    answers, done, p = run(controller, OTHERS_CUTS[cut])
    assert [{*answer} for answer in answers] == [{step} for step in range(6)]
    assert (done.statistics.reused, done.reason) == (0, OTHERS)
    assert p.extra_generation_params[NOT_USED] == OTHERS
    assert OTHERS in next(iter(p.comments))
    assert OTHERS in capsys.readouterr().out


def test_a_prompt_that_changes_is_not_given_the_old_ones_feature(controller):
    conds = prompts([(1, 20)], [(20,)])
    answers, done, _ = run(controller, CUTS["one call"], conds=conds)
    assert [answer[0] for answer in answers] == [0, 0, 2, 3, 3, 3]
    assert (done.statistics.switched, done.statistics.reused) == (1, 3)
    assert (
        done.reason == "1 evaluation more than planned made in full, as prompts, unconds or the network changed there"
    )
    assert (done.plan, done.in_full, done.depth) == ("0, 3", "0, 2-3", 1)


def test_prompts_that_take_turns_are_computed_in_full_and_said(controller):
    conds = prompts([(1, 2, 3, 4, 5, 6)], [(20,)])
    answers, done, p = run(controller, CUTS["one call"], conds=conds)
    assert [answer[0] for answer in answers] == [0, 0, 2, 3, 4, 5]
    assert done.reason == p.extra_generation_params[NOT_USED] == SWITCHED
    assert (done.plan, done.in_full) == ("0, 3", "0, 2-5")
