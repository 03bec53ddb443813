"""What the cache adds is a few operations a call, however many rows, and none that waits for the device."""

import pytest
import torch

from bench.launches import CASES, LEVELS, READ_BACK, ROWS, Counted, Operations
from bench.parts.control_net import ControlledForward, ControlNet
from bench.parts.networks import NETWORKS
from deepcache_ext import SamplerKind, SamplingPass, Settings
from deepcache_ext.features.forecast import Held, Line, LineAndResponse, Response

ADDED = {
    "held": (1, 1),
    "line, not asked": (16, 5),
    "line (Euler)": (10, 2),
    "line and response (Heun)": (58, 7),
    "response, drawn, not asked": (39, 11),
    "response, drawn (Euler a)": (30, 7),
    "line, corrected (Euler)": (16, 4),
    "line, corrected (DPM++ 2M)": (19, 4),
    "response, drawn, corrected (Euler a)": (41, 9),
}
"""Operations that a refresh and a reuse have more, in single precision."""
IN_HALF = {
    "held": (1, 1),
    "line, not asked": (16, 6),
    "line (Euler)": (10, 3),
    "line and response (Heun)": (62, 10),
    "response, drawn, not asked": (44, 16),
    "response, drawn (Euler a)": (35, 12),
    "line, corrected (Euler)": (18, 5),
    "line, corrected (DPM++ 2M)": (21, 5),
    "response, drawn, corrected (Euler a)": (50, 14),
}
"""The same where features are cast to single precision and back."""


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def counted(request):
    return Counted(request.param)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, depth {case.depth}")
def test_what_it_adds_does_not_depend_on_the_rows(counted, case):
    for rows in ROWS if case.depth else ROWS[:2]:
        refresh, reuse = counted.added(case, rows)
        expected = ADDED if counted.dtype is torch.float32 else IN_HALF
        assert (refresh.total(), reuse.total()) == expected[case.name], (rows, refresh, reuse)
        assert not READ_BACK & (refresh + reuse).keys()


def sampled(unet, network, cuts, *, predictor, device="cpu", noisy=True, control_models=tuple):
    """Make a pass in which each evaluation's six rows are cut into calls like that, and return its statistics."""
    settings = Settings(schedule="list", steps=(0, 2, 4))
    kind, options = SamplerKind(noisy=noisy), {"predictor": predictor, "control_models": control_models}
    with SamplingPass(unet, settings, len(cuts), sampler=kind, levels=LEVELS, **options) as run, torch.no_grad():
        for number, calls in enumerate(cuts):
            run.start_evaluation(noise=torch.ones(6, device=device))
            inputs = network.inputs(unet, sum(calls), latent=8, device=device, seed=number)
            inputs["timesteps"] = inputs["timesteps"] + 400 - 100 * number
            parts = [value.split(calls) for value in inputs.values()]
            for part in zip(*parts, strict=True):
                unet(**dict(zip(inputs, part, strict=True)))
    assert (run.statistics.error, run.statistics.missed) == ("", 0)
    return run.statistics


WHOLE, SPLIT, RESPLIT = [[6]] * 6, [[3, 3]] * 6, [[6], [2, 4], [1, 5], [6], [3, 3], [4, 2]]


@pytest.mark.parametrize("cuts", [WHOLE, SPLIT, RESPLIT], ids=["whole", "split", "split anew each time"])
@pytest.mark.parametrize(
    "predictor", [Held(), Line(), LineAndResponse(), Response()], ids=lambda one: type(one).__name__
)
def test_nothing_is_read_back_from_the_device(predictor, cuts):
    """A tensor on the meta device has no values: whoever asks for one gets an exception."""
    network = NETWORKS["SD1.5"]
    unet = network.build(small=True, device="meta")
    assert sampled(unet, network, cuts, predictor=predictor, device="meta").reused == 3


@pytest.mark.parametrize("cuts", [WHOLE, RESPLIT], ids=["whole", "split anew each time"])
def test_nothing_is_read_back_with_a_controlnet(cuts):
    network = NETWORKS["SD1.5"]
    unet = network.build(small=True)
    control = ControlNet(unet)
    unet.forward = ControlledForward(network, unet, control, torch.rand(1, 3, 64, 64))
    operations = Operations()
    with operations:
        found = sampled(unet, network, cuts, predictor=LineAndResponse(), control_models=lambda: [control])
    assert found.reused == 3
    assert not READ_BACK & operations.counts.keys()


def test_a_value_that_is_read_back_is_seen():
    operations = Operations()
    with operations:
        assert torch.ones(1).item() == 1
        assert torch.equal(torch.ones(1), torch.ones(1))
        torch.ones(2).nonzero()
    assert {"_local_scalar_dense", "equal", "nonzero"} == READ_BACK & operations.counts.keys()
