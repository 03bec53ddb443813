"""What a whole pass puts right, what it leaves as it is, and what it counts."""

import pytest
import torch

from deepcache_ext import SamplingPass, Settings
from deepcache_ext.features.forecast import Line
from deepcache_ext.features.rows import Batch
from demo.samplers import SAMPLERS
from demo.tiny_model import UNCONDITIONAL, TinyModel
from tests.unit.unets import state_of

STEPS = 10
LIST = Settings(schedule="list", steps=(0, 2, 5, 7), depth=0)
OFF = Settings(schedule="list", steps=(0, 2, 5, 7), depth=0, correction="off")


@pytest.fixture(scope="module")
def model():
    return TinyModel()


def run_of(model, settings, hooked=None, total=STEPS, **options):
    sampler = SAMPLERS["DPM++ 2M"]
    run = sampler.ask(model, STEPS)
    handle = hooked.register_forward_hook(lambda *_: None) if hooked is not None else None
    with SamplingPass(model.unet, settings, total, sampler=run.kind, run=run, **options) as passing:
        pictures = sampler.sample(model, model.prompts(2), STEPS, wrap=passing.wrap)
    if handle is not None:
        handle.remove()
    return pictures, passing


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({"correction": "off"}, True),
        ({"forecast": "off"}, True),
        ({"depth": 1}, True),
        ({}, False),
    ],
    ids=["switched off", "no forecast", "blocks run on a reuse", "outputs of unknown meaning"],
)
def test_where_nothing_is_corrected(model, settings, levels):
    settings = {"schedule": "list", "steps": (0, 2, 5, 7), "depth": 0} | settings
    known = {"levels": model.levels} if levels else {}
    one, passing = run_of(model, Settings(**settings), **known)
    other, _ = run_of(model, Settings(**settings | {"correction": "off"}), **known)
    assert torch.equal(one, other)
    assert passing.statistics.corrected == passing.statistics.uncorrected == 0


def test_layers_after_the_blocks_that_somebody_listens_to_are_not_called_again(model):
    _, passing = run_of(model, LIST, hooked=model.unet.out[1], levels=model.levels)
    assert (passing.statistics.corrected, passing.statistics.uncorrected) == (0, 4)
    assert passing.statistics.listened


def test_an_output_that_somebody_changes_on_its_way_is_not_put_right(model):
    """As a ControlNet does that goes on after the U-Net's last layers; all of it would count as an error."""
    before = state_of(model.unet)
    handle = model.unet.register_forward_hook(lambda _unet, _args, output: output * 0.9)
    try:
        one, passing = run_of(model, LIST, levels=model.levels)
        other, _ = run_of(model, OFF, levels=model.levels)
    finally:
        handle.remove()
    assert state_of(model.unet) == before
    assert torch.equal(one, other)
    assert (passing.statistics.corrected, passing.statistics.uncorrected) == (0, 4)
    assert passing.statistics.listened


def test_an_output_may_be_written_into_by_whoever_gets_it(model):
    def made(change):
        with SamplingPass(model.unet, LIST, STEPS, sampler=run.kind, run=run, levels=model.levels) as passing:
            handle = model.unet.register_forward_hook(lambda _unet, _args, output: change(output))
            try:
                return sampler.sample(model, model.prompts(1), STEPS, wrap=passing.wrap)
            finally:
                handle.remove()

    sampler = SAMPLERS["DPM++ 2M"]
    run = sampler.ask(model, STEPS)
    assert torch.equal(made(lambda output: output.mul_(0.9)), made(lambda output: output * 0.9))


@pytest.mark.parametrize(("without", "corrected", "left"), [((), 6, 0), ((3,), 2, 3), ((2, 4), 0, 4)], ids=str)
def test_where_unconds_come_or_go_nothing_is_owed_any_more(model, without, corrected, left):
    """Each in a call of its own, whose rows are the same; an output without unconds counts otherwise."""
    run = SAMPLERS["DPM++ 2M"].ask(model, STEPS)
    settings = Settings(schedule="list", steps=(0, 1, 5), depth=0)
    contexts = {"cond": model.context(model.prompts(1)), "uncond": model.context([UNCONDITIONAL])}
    times = model.timesteps(torch.tensor(run.levels))
    with SamplingPass(model.unet, settings, STEPS, sampler=run.kind, run=run, levels=model.levels) as passing:
        for number in range(6):
            kinds = ("cond",) if number in without else ("cond", "uncond")
            passing.start_evaluation(keys=[(kind, 0) for kind in kinds])
            for kind in kinds:
                with torch.no_grad():
                    model.unet(model.noise(1, seed=number), times[number, None], context=contexts[kind])
    assert (passing.statistics.corrected, passing.statistics.uncorrected) == (corrected, left)


def test_what_was_put_right_before_another_checkpoint_still_counts(model):
    """It comes at 4, where a reuse is owed for; what was put right before is 1, after it the one at 6."""
    sampler = SAMPLERS["DPM++ 2M"]
    run = sampler.ask(model, STEPS)
    settings = Settings(schedule="list", steps=(0, 2, 5, 7), depth=0)
    with SamplingPass(
        model.unet, settings, STEPS, sampler=run.kind, run=run, levels=model.levels, predictor=Line()
    ) as passing:
        made = [0]

        def moving(denoiser):
            def evaluate(*args, **kwargs):
                if made[0] == 4:
                    passing.move(model.unet, model.levels)
                made[0] += 1
                return passing.wrap(denoiser)(*args, **kwargs)

            return evaluate

        sampler.sample(model, model.prompts(1), STEPS, wrap=moving)
    assert (passing.statistics.corrected, passing.statistics.uncorrected) == (2, 1)
    passing.install().remove()
    assert (passing.statistics.corrected, passing.statistics.uncorrected) == (0, 0)


def test_what_is_owed_when_somebody_elses_calls_come_is_counted(model):
    """At evaluation 4 a reuse is owed for; the one before was put right."""
    sampler = SAMPLERS["DPM++ 2M"]
    run = sampler.ask(model, STEPS)
    with SamplingPass(model.unet, LIST, STEPS, sampler=run.kind, run=run, levels=model.levels) as passing:
        made = [0]

        def tiling(denoiser):
            def evaluate(x, sigma):
                passing.start_evaluation(batch=Batch.of(x))
                if made[0] == 4:
                    denoiser(x[..., :16], sigma)
                made[0] += 1
                return denoiser(x, sigma)

            return evaluate

        sampler.sample(model, model.prompts(1), STEPS, wrap=tiling)
    assert passing.statistics.others
    assert (passing.statistics.corrected, passing.statistics.uncorrected) == (1, 1)


def test_a_full_evaluation_after_reuses_puts_them_right_though_nothing_is_reused_after_it(model):
    settings = Settings(schedule="list", steps=(0, 2, 4, 6, 8, 9), depth=0)
    _, passing = run_of(model, settings, levels=model.levels)
    assert (passing.statistics.corrected, passing.statistics.uncorrected) == (4, 0)
    assert passing.statistics.full == 6


def test_what_is_kept_is_little_and_released(model):
    with SamplingPass(
        model.unet, LIST, STEPS, sampler=(run := SAMPLERS["DPM++ 2M"].ask(model, STEPS)).kind, run=run,
        levels=model.levels,
    ) as passing:  # fmt: skip
        most, latent = [], 3 * 32 * 32 * 4

        def noting(denoiser):
            def evaluate(*args, **kwargs):
                found = passing.wrap(denoiser)(*args, **kwargs)
                most.append(passing._settling.nbytes)
                return found

            return evaluate

        SAMPLERS["DPM++ 2M"].sample(model, model.prompts(2), STEPS, wrap=noting)
    rows = 4
    assert max(most) <= 8 * rows * latent  # three reuses in a row: input, output and error of each, less one
    assert passing._settling.nbytes == 0


def test_batches_are_corrected_as_single_pictures_are(model):
    pictures = {}
    for count in (2, 4):
        sampler = SAMPLERS["Euler"]
        run = sampler.ask(model, STEPS)
        with SamplingPass(model.unet, LIST, STEPS, sampler=run.kind, run=run, levels=model.levels) as passing:
            pictures[count] = sampler.sample(model, model.prompts(count), STEPS, wrap=passing.wrap)
    assert (pictures[2] - pictures[4][:2]).abs().max() < 1e-3
