"""Looking ahead runs the U-Net where the sampler will be, and interpolates up to there."""

import pytest
import torch

from bench.research.look_ahead import LookAhead
from deepcache_ext import NoiseLevels
from tests.unit.test_rivals import Triple

LEVELS = NoiseLevels(torch.linspace(0.9991, 0.0047, 1000).square())


def run_of(inputs, times, **options):
    """Return the outputs, the inputs of the first block, and the run."""
    unet = Triple()
    seen, found = [], []
    unet.input_blocks[0].register_forward_pre_hook(lambda _block, args: seen.append(args[0]))
    with LookAhead(unet, len(inputs), levels=LEVELS, probe=0.1, **options) as run:
        evaluate = run.wrap(unet)
        found = [evaluate(x, torch.full((len(x),), float(time))) for x, time in zip(inputs, times, strict=True)]
    return found, seen, run


def noise(seed):
    return torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("gap", "ahead"), [(2, 3), (3, 2), (5, 1)])
def test_whole_evaluations_are_the_first_ones_and_one_a_gap(gap, ahead):
    _, _, run = run_of([noise(step) for step in range(8)], range(900, 100, -100), gap=gap)
    assert (run.full, run.reused, run.ahead) == (3, 5, ahead)
    assert run.compute == pytest.approx(3 + ahead + 5 * 0.1)


def test_the_response_makes_up_for_an_input_that_was_not_predicted():
    inputs = [noise(step) for step in range(8)]
    found, _, _ = run_of(inputs, range(900, 100, -100), gap=3)
    for x, output in zip(inputs, found, strict=True):
        assert torch.allclose(output, 3 * x, atol=0.1 * float((3 * x).abs().max()))


@pytest.mark.parametrize("times", [range(900, 100, -100), [999, 962, 921, 876, 827, 774, 717, 656]], ids=str)
def test_where_the_denoised_picture_stays_the_prediction_is_the_sampler_s_own(times):
    clean, added = noise(1), noise(2)
    sigmas = [LEVELS.sigma(torch.tensor([time])) for time in times]
    inputs = [(clean + sigma * added) / (1 + sigma**2).sqrt() for sigma in sigmas]
    _, seen, _ = run_of(inputs, times, gap=2)
    assert len(seen) == 8 + 3  # after the first three, of every two evaluations: the first, the one ahead, the second
    for ahead, index in ((4, 4), (7, 6)):
        assert torch.allclose(seen[ahead], inputs[index], atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"), [({"gap": 1}, "gap must be 2 or more"), ({"gap": 2, "warm": 2}, "warm must be 3 or more")]
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LookAhead(Triple(), 8, levels=LEVELS, probe=0.1, **options)
