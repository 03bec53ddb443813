"""A forward that goes through the layers of its blocks itself, and takes control residuals from the ends of lists."""

import pytest
import torch
from torch import nn

from deepcache_ext import SamplingPass, Settings
from deepcache_ext.network.tap import Tap
from tests.unit.unets import Case, state_of

DEPTHS = (0, 1, 2, 11)


class Iterating:
    """The loop over blocks that some hosts have, to be set as a network's forward."""

    def __init__(self, case, residuals=None):
        self.case = case
        self.residuals = residuals
        self.blocks = []
        """The kind and the number of each block that was walked in the last call."""

    def run(self, block, h, emb, context):
        for layer in block:
            names = layer.forward.__code__.co_varnames
            extra = [emb] if "emb" in names else [context] if "context" in names else []
            h = layer(h, *extra)
        return h

    def add(self, h, kind):
        """Add a residual in place, as some hosts do: what a stand-in returns has to bear it."""
        residual = self.left[kind].pop() if self.left.get(kind) else None
        return h if residual is None else h.add_(residual)

    def __call__(self, x, timesteps, context, y=None):
        unet, self.blocks = self.case.unet, []
        self.left = {kind: list(of) for kind, of in (self.residuals or {}).items()}
        h, emb, context = self.case.embedded(x, timesteps, context, y)
        skips = []
        for number, block in enumerate(unet.input_blocks):
            self.blocks.append(("input", number))
            h = self.run(block, h, emb, context)
            skips.append(h)
        self.blocks.append(("middle", 0))
        h = self.add(self.run(unet.middle_block, h, emb, context), "middle")
        for number, block in enumerate(unet.output_blocks):
            self.blocks.append(("output", number))
            h = self.run(block, torch.cat([h, self.add(skips.pop().clone(), "output")], dim=1), emb, context)
        return unet.out(h.type(x.dtype))


def called_layers(unet):
    """Return a list that gets the name of every layer of a block that is called from now on."""
    called = []
    for name in ("input_blocks", "middle_block", "output_blocks"):
        for key, layer in getattr(unet, name).named_modules(prefix=name):
            layer.register_forward_pre_hook(lambda _layer, _args, key=key: called.append(key))
    return called


def passed(case, depth, **options):
    """Return the outputs of a refresh and of a reuse, and the pass's statistics."""
    settings = Settings(interval=2, depth=depth)
    with SamplingPass(case.unet, settings, view="full-length", **options) as run:
        outputs = []
        for seed in (1, 2):
            run.start_evaluation()
            outputs.append(case.call(seed))
    return outputs, run.statistics


@pytest.fixture(params=["SD1.5", "SDXL"])
def case(request):
    return Case(request.param)


@pytest.mark.parametrize("depth", DEPTHS)
def test_layers_that_are_iterated_give_what_called_blocks_give(case, depth):
    depth = min(depth, case.max_depth)
    expected = case.reuse_by_hand(depth, 2, case.feature(depth, 1))
    case.unet.forward = iterating = Iterating(case)
    before = state_of(case.unet)
    (_, reuse), statistics = passed(case, depth)
    assert (statistics.reused, statistics.missed, statistics.error) == (1, 0, "")
    assert torch.equal(reuse, expected)
    kinds = [kind for kind, _ in iterating.blocks]
    assert kinds == ["input"] * len(case.unet.input_blocks) + ["middle"] + ["output"] * len(case.unet.output_blocks)
    assert state_of(case.unet) == before


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_reuse_calls_no_layer_of_the_skipped_blocks(case, depth):
    depth = min(depth, case.max_depth)
    case.unet.forward = Iterating(case)
    called = called_layers(case.unet)
    with SamplingPass(case.unet, Settings(interval=2, depth=depth), view="full-length") as run:
        run.start_evaluation()
        case.call(1)
        called.clear()
        run.start_evaluation()
        case.call(2)
    blocks = {tuple(key.split(".")[:2]) for key in called}
    count = len(case.unet.input_blocks)
    expected = {("input_blocks", str(number)) for number in range(depth)}
    assert blocks == expected | {("output_blocks", str(number)) for number in range(count - depth, count)}


@pytest.mark.parametrize("depth", [1, 3])
def test_residuals_popped_from_lists_land_at_their_blocks(depth):
    """Those of the skipped blocks have no effect, those of the others the whole."""
    case = Case()
    torch.manual_seed(3)
    shapes = []
    for block in case.unet.input_blocks:
        block[-1].register_forward_hook(lambda _layer, _args, output: shapes.append(output.shape))
    case.call(1)
    residuals = {"output": [0.1 * torch.randn(shape) for shape in shapes], "middle": [0.1 * torch.randn(shapes[-1])]}
    outer_only = {"output": [*residuals["output"][:depth], *[None] * (len(shapes) - depth)], "middle": [None]}
    case.unet.forward = iterating = Iterating(case)
    (_, without), _ = passed(case, depth)
    found = []
    iterating.residuals = residuals
    with SamplingPass(case.unet, Settings(interval=5, depth=depth), view="full-length") as run:
        run.start_evaluation()
        case.call(1)
        for iterating.residuals in (residuals, outer_only):
            run.start_evaluation()
            found.append(case.call(2))
    assert run.statistics.reused == 2
    assert torch.equal(*found)
    assert not torch.equal(found[0], without)


class Block(nn.Sequential):
    def forward(self, h):
        for layer in self:
            h = layer(h)
        return h


@pytest.mark.parametrize("calls", [True, False])
def test_a_tap_hears_a_block_once_however_it_is_run(calls):
    block, heard = Block(nn.Hardtanh(), nn.Hardtanh(0, 5)), []
    block.register_forward_hook(lambda _block, _args, output: output + 10)
    tap = Tap(
        block, before=lambda h: heard.append(("before", float(h))), after=lambda h: heard.append(("after", float(h)))
    )
    tap.enter()
    h = torch.tensor(-3.0)
    h = block(h) if calls else Block.forward(block, h)
    tap.exit()
    assert heard == [("before", -3.0), ("after", float(h))]
    block(h)
    assert len(heard) == 2
    assert not block[0]._forward_pre_hooks
