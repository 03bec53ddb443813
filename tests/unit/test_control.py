"""What a reuse leaves out of a control model, on real blocks."""

import pytest
import torch

from bench.parts.control_net import ControlledForward, ControlNet
from deepcache_ext import SamplingPass, Settings
from deepcache_ext.features.rows import Batch
from deepcache_ext.sampling import SHORTENED
from tests.unit.test_iterated import Iterating
from tests.unit.unets import Case, state_of

DEPTHS = (0, 1, 2, 5)
KEYS = (("cond", 0), ("uncond", 0))


class Controlled:
    """A narrowed U-Net whose forward calls a control model, and which of the model's modules were called."""

    def __init__(self, name):
        torch.manual_seed(1)
        self.case = Case(name)
        self.control = ControlNet(self.case.unet)
        hint = torch.rand(1, 3, 64, 64)
        self.case.unet.forward = ControlledForward(self.case.network, self.case.unet, self.control, hint)
        self.called = []
        for key, module in self.control.named_modules():
            module.register_forward_pre_hook(lambda _module, _args, key=key: self.called.append(key))

    def two(self, depth, models):
        """Return the outputs of a refresh and of a reuse, and the control model's modules that the reuse called."""
        with SamplingPass(self.case.unet, Settings(interval=2, depth=depth), control_models=lambda: models) as run:
            run.start_evaluation()
            refresh = self.case.call(1)
            self.called.clear()
            run.start_evaluation()
            reuse = self.case.call(2)
        assert (run.statistics.reused, run.statistics.missed, run.statistics.error) == (1, 0, "")
        return refresh, reuse, set(self.called)


@pytest.fixture(params=["SD1.5", "SDXL"])
def controlled(request):
    return Controlled(request.param)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_reuse_runs_only_the_control_blocks_that_it_needs_and_is_the_same(controlled, depth):
    before = state_of(controlled.control)
    refresh, reuse, called = controlled.two(depth, [controlled.control, controlled.control])
    untouched_refresh, untouched_reuse, all_called = controlled.two(depth, [])
    assert torch.equal(refresh, untouched_refresh)
    assert torch.equal(reuse, untouched_reuse)
    blocks = len(controlled.control.input_blocks)
    lists = ("input_blocks", "zero_convs")
    assert {f"{name}.{number}" for name in lists for number in range(max(1, depth))} <= called
    left_out = {f"{name}.{number}" for name in lists for number in range(max(1, depth), blocks)}
    left_out |= {"middle_block", "middle_block_out"}
    assert not left_out & called
    assert left_out <= all_called
    assert state_of(controlled.control) == before


def test_the_control_has_an_effect_through_the_blocks_that_run(controlled):
    _, reuse, _ = controlled.two(1, [controlled.control])
    controlled.control.zero_convs[0].weight.mul_(2)
    _, other, _ = controlled.two(1, [controlled.control])
    assert not torch.equal(reuse, other)


def test_a_control_model_is_found_inside_the_module_that_holds_it_and_others_are_left_alone(controlled):
    holder = torch.nn.ModuleDict({"control_model": controlled.control})
    adapter = torch.nn.Sequential(torch.nn.Linear(1, 1))
    _, _, called = controlled.two(1, [holder, adapter, None, "no module"])
    assert "middle_block" not in called
    assert "input_blocks.0" in called


def test_an_exception_in_the_control_model_leaves_it_whole(controlled):
    before = state_of(controlled.control)

    def fail(*_):
        raise RuntimeError("in the control model")

    with SamplingPass(controlled.case.unet, Settings(interval=2), control_models=lambda: [controlled.control]) as run:
        run.start_evaluation()
        controlled.case.call(1)
        handle = controlled.control.input_blocks[0].register_forward_hook(fail)
        run.start_evaluation()
        with pytest.raises(RuntimeError, match="in the control model"):
            controlled.case.call(2)
        handle.remove()
        assert state_of(controlled.control) == before


class Ahead:
    """A narrowed U-Net, and a control model that is called before it, whose residuals it takes out of lists."""

    def __init__(self, name):
        torch.manual_seed(1)
        self.case = Case(name)
        self.control = ControlNet(self.case.unet)
        self.hint = torch.rand(1, 3, 64, 64)
        self.case.unet.forward = self.forward = Iterating(self.case)

    @torch.no_grad()
    def call(self, seed):
        x, timesteps, context, y = (self.case.inputs(seed).get(key) for key in ("x", "timesteps", "context", "y"))
        _, emb, _ = self.case.embedded(x, timesteps, context, y)
        *outputs, middle = self.control(x, emb, context, self.hint)
        self.forward.residuals = {"output": outputs, "middle": [middle]}
        return self.case.call(seed), outputs

    def passed(self, depth, models, keys=KEYS):
        """Return the output of a reuse, and how many residuals of blocks there were."""
        settings, batch = Settings(interval=2, depth=depth), Batch(1, (8, 8))
        ahead = {"view": "full-length", "controls_ahead": lambda: models}
        with SamplingPass(self.case.unet, settings, **ahead) as run:
            for seed in (1, 2):
                run.start_evaluation(keys=KEYS if seed == 1 else keys, batch=batch)
                output, residuals = self.call(seed)
        assert (run.statistics.missed, run.statistics.error) == (keys != KEYS, "")
        return output, sum(one is not None for one in residuals)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", ["SD1.5", "SDXL"])
def test_control_models_that_are_called_before_the_unet_are_shortened_too(name, depth):
    ahead = Ahead(name)
    before = state_of(ahead.control)
    short, of_blocks = ahead.passed(depth, [ahead.control])
    whole, all_blocks = ahead.passed(depth, [])
    assert torch.equal(short, whole)
    assert (of_blocks, all_blocks) == (max(1, depth), len(ahead.case.unet.input_blocks))
    assert state_of(ahead.control) == before


def test_before_a_call_that_may_have_a_new_row_the_control_model_is_whole():
    ahead = Ahead("SD1.5")
    _, of_blocks = ahead.passed(1, [ahead.control], keys=("another", *KEYS[1:]))
    assert of_blocks == len(ahead.case.unet.input_blocks)


def test_a_shortened_control_before_a_call_that_cannot_reuse_is_said():
    ahead = Ahead("SD1.5")
    options = {"view": "full-length", "controls_ahead": lambda: [ahead.control]}
    with SamplingPass(ahead.case.unet, Settings(interval=2, depth=1), **options) as run:
        for seed in (1, 2):
            run.start_evaluation(keys=KEYS, batch=Batch(1, (8, 8)), exact=False)
            run.say(KEYS if seed == 1 else ("another", "row"))
            ahead.call(seed)
    assert run.statistics.error == f"caching stopped at an error, RuntimeError: {SHORTENED}"


def test_an_error_in_asking_before_a_control_models_call_ends_caching_and_the_picture_is_made():
    ahead = Ahead("SD1.5")
    before = state_of(ahead.control)
    expected = ahead.call(2)[0]

    def fails():
        raise KeyError("a unit")

    options = {"view": "full-length", "controls_ahead": lambda: [ahead.control]}
    with SamplingPass(ahead.case.unet, Settings(interval=2, depth=1), **options) as run:
        for seed in (1, 2):
            run.start_evaluation(keys=KEYS, batch=Batch(1, (8, 8)), in_force=None if seed == 1 else fails)
            output, residuals = ahead.call(seed)
    assert run.statistics.error == "caching stopped at an error, KeyError: 'a unit'"
    assert all(one is not None for one in residuals)
    assert torch.equal(output, expected)
    assert state_of(ahead.control) == before
