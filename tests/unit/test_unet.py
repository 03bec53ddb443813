"""The U-Net's anatomy, and what a call computes under each view."""

import pytest
import torch
from torch import nn

from deepcache_ext import SamplingPass, Settings
from deepcache_ext.network.unet import check_for_unet, find_unet, has_foreign_forward, max_depth
from tests.unit.unets import DTYPES, KINDS, VIEWS, Case, TaggedUNet


def kind_id(kind):
    return kind[0] if kind[1] is None else f"{kind[0]} with {kind[1]} input channels"


CASES = [(*kind, dtype) for kind in KINDS for dtype in DTYPES if kind[1] is None or dtype is DTYPES[0]]
"""Every kind in the first precision; the other ones only where the number of channels is the usual one."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[2]}-{kind_id(case)}")
def case(request):
    return Case(*request.param)


def test_refreshes_and_interval_one_are_bit_identical_at_every_depth(case):
    untouched = case.call(1)
    for depth in range(case.max_depth + 1):
        for view in VIEWS:
            with SamplingPass(case.unet, Settings(interval=2, depth=depth), view=view) as run:
                run.start_evaluation()
                assert torch.equal(case.call(1), untouched)
    with SamplingPass(case.unet, Settings(interval=1)) as run:
        for _ in range(2):
            run.start_evaluation()
            assert torch.equal(case.call(1), untouched)
    assert run.statistics.reused == 0


@pytest.mark.parametrize("view", VIEWS)
def test_a_reuse_equals_the_outer_blocks_around_the_kept_feature_bit_for_bit(case, view):
    for depth in range(case.max_depth + 1):
        expected = case.reuse_by_hand(depth, 2, case.feature(depth, 1))
        with SamplingPass(case.unet, Settings(interval=2, depth=depth), view=view) as run:
            run.start_evaluation()
            case.call(1)
            run.start_evaluation()
            assert torch.equal(case.call(2), expected)
        assert run.statistics.reused == 1
    assert not torch.equal(expected, case.call(2))


class Residuals:
    """A forward as the ControlNet extension sets on the instance: it counts the blocks and adds between them.

    Every third input block's output is added to in place, as a T2I adapter does; the middle and every skip get a
    residual of their own. With `reference`, the blocks are first walked with other rows, as reference-only does.
    """

    def __init__(self, case, reference=None):
        self.case = case
        self.reference = reference
        unet = case.unet
        self.residuals = []
        handles = [
            block.register_forward_hook(lambda _block, _args, output: self.residuals.append(self._noise(output)))
            for block in [*unet.input_blocks, unet.middle_block]
        ]
        case.call(0)
        for handle in handles:
            handle.remove()

    @staticmethod
    def _noise(like):
        generator = torch.Generator().manual_seed(like.numel())
        return torch.randn(like.shape, generator=generator).to(like.dtype)

    def __call__(self, x, timesteps=None, context=None, y=None):
        walks = [x] if self.reference is None else [self.reference(x), x]
        return [self.walk(walk, timesteps, context, y) for walk in walks][-1]

    def walk(self, x, timesteps, context, y, depth=None, feature=None):
        unet = self.case.unet
        h, emb, context = self.case.embedded(x, timesteps, context, y)
        outer = slice(depth)
        skips = []
        for position, block in enumerate(list(unet.input_blocks)[outer]):
            h = block(h, emb, context)
            if (position + 1) % 3 == 0:
                h += self.residuals[position]
            skips.append(h + self.residuals[position])
        if feature is None:
            h = unet.middle_block(h, emb, context)
            h = h + self.residuals[-1]
        else:
            h = feature
        for block in list(unet.output_blocks)[0 if depth is None else len(unet.output_blocks) - depth :]:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        return unet.out(h.type(x.dtype))


@pytest.fixture
def foreign(case):
    def install(reference=None):
        case.unet.forward = Residuals(case, reference)
        return case.unet.forward

    yield install
    case.unet.__dict__.pop("forward", None)


def test_a_foreign_forward_keeps_its_residuals_on_refreshes_and_reuses(case, foreign):
    forward = foreign()
    untouched = case.call(1)
    for depth in range(case.max_depth + 1):
        feature = case.feature(depth, 1)
        with torch.no_grad(), case.precision():
            inputs = {"y": None} | case.inputs(2)
            expected = forward.walk(**inputs, depth=depth, feature=feature)
        with SamplingPass(case.unet, Settings(interval=2, depth=depth)) as run:
            run.start_evaluation()
            assert torch.equal(case.call(1), untouched)
            run.start_evaluation()
            assert torch.equal(case.call(2), expected)
        assert run.statistics.reused == 1


def test_a_forward_that_walks_the_blocks_twice_has_a_feature_for_each_walk():
    case = Case()
    taken = []
    block = case.unet.output_blocks[len(case.unet.output_blocks) - 2]
    out = case.unet.output_blocks[-1]
    case.unet.forward = Residuals(case, reference=lambda x: -x)
    handle = block.register_forward_hook(lambda _block, _args, output: taken.append(output.clone()))
    case.call(1)
    handle.remove()
    seen = []
    handle = out.register_forward_hook(lambda _block, args, _output: seen.append(args[0]))
    with SamplingPass(case.unet, Settings(interval=2)) as run:
        run.start_evaluation()
        case.call(1)
        features = sum(feature.nbytes for feature in taken)
        assert features <= run.kept_bytes < 1.01 * features
        seen.clear()
        run.start_evaluation()
        case.call(2)
    handle.remove()
    assert run.statistics.reused == 1
    assert len(seen) == len(taken) == 2
    for into_the_last_block, feature in zip(seen, taken, strict=True):
        assert torch.equal(into_the_last_block[:, : feature.shape[1]], feature)


class Walks:
    """A forward on the instance that walks a TaggedUNet's blocks over every picture in `inputs(x)`."""

    def __init__(self, unet, inputs):
        self.unet = unet
        self.inputs = inputs

    def __call__(self, x):
        return [type(self.unet).forward(self.unet, walk) for walk in self.inputs(x)]


def reference(x):
    return x - 100


@pytest.mark.parametrize(
    ("at_the_refresh", "at_the_reuse", "kept"),
    [
        (lambda x: [x], lambda x: [x], [0]),
        (lambda x: [reference(x), x], lambda x: [reference(x), x], [-100, 0]),
        (lambda x: [reference(x), x], lambda x: [x], [0]),
        (lambda x: [x], lambda x: [reference(x), x], [-99, 0]),
        (lambda x: [x, reference(x)], lambda x: [x], [0]),
        (lambda x: [x.clone()], lambda x: [x.double()], [0]),
        (lambda x: [reference(x)], lambda x: [reference(x)], [-99]),
        (lambda x: [x[:1], x], lambda x: [x], [1]),
        (lambda x: [reference(x)[..., :2], x], lambda x: [reference(x)[..., :2], x], [-100, 0]),
    ],
)
def test_each_walk_gets_its_own_feature_or_is_computed_in_full(at_the_refresh, at_the_reuse, kept):
    """The deep feature shows the number of the evaluation that it is from, 0 or 1, less 100 for a reference."""
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=3)) as run:
        for number, inputs in enumerate([at_the_refresh, at_the_reuse]):
            unet.forward = Walks(unet, inputs)
            run.start_evaluation()
            walks = unet(torch.full((2, 2, 4, 4), float(number)))
    assert [walk[0, 1, 0, 0].item() for walk in walks] == kept


def test_after_a_call_with_other_walks_the_next_evaluation_is_full():
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=4)) as run:
        for inputs in (lambda x: [reference(x), x], lambda x: [x], lambda x: [x], lambda x: [x]):
            unet.forward = Walks(unet, inputs)
            run.start_evaluation()
            unet(torch.zeros(1, 2, 4, 4))
    assert (run.statistics.full, run.statistics.reused, run.statistics.missed) == (2, 2, 1)


def test_an_extra_walk_of_the_stock_loop_is_computed_in_full():
    case = Case()
    expected = case.call(3)

    class Twice(type(case.unet)):
        def forward(self, x, **inputs):
            first = super().forward(x, **inputs)
            return first if run.statistics.calls_reused == 0 else super().forward(**case.inputs(3))

    case.unet.__class__ = Twice
    with SamplingPass(case.unet, Settings(interval=2, depth=2), view="compact") as run:
        run.start_evaluation()
        case.call(1)
        run.start_evaluation()
        assert torch.equal(case.call(2), expected)
    assert run.statistics.reused == 1


def test_a_forward_that_calls_the_unet_itself_sees_the_originals_inside():
    case = Case()
    stock = case.unet.forward
    inner = []

    def forward(x, **inputs):
        if not inner:
            inner.append(None)
            inner[0] = case.call(3)
        return stock(x, **inputs)

    expected = case.call(3)
    with SamplingPass(case.unet, Settings(interval=2), view="full-length") as run:
        run.start_evaluation()
        case.call(1)
        case.unet.forward = forward
        run.start_evaluation()
        reused = case.call(2)
    assert torch.equal(inner[0], expected)
    assert torch.equal(reused, case.reuse_by_hand(1, 2, Case().feature(1, 1)))


@pytest.mark.parametrize("view", VIEWS)
def test_writing_in_place_into_a_feature_does_not_change_what_is_kept(view):
    """As FreeU does with h before it is concatenated: every reuse must get what a refresh would have given it."""
    case = Case()

    def scaling_cat(tensors, dim):
        tensors[0][:, ::2] *= 1.2
        return torch.cat(tensors, dim=dim)

    case.cat = scaling_cat
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case.network.module, "th", type("th", (), {"cat": staticmethod(scaling_cat)}))
        feature = case.feature(2, 1)
        expected = case.reuse_by_hand(2, 2, feature.clone())
        with SamplingPass(case.unet, Settings(interval=4, depth=2), view=view) as run:
            run.start_evaluation()
            case.call(1)
            for _ in range(3):
                run.start_evaluation()
                assert torch.equal(case.call(2), expected)


def test_an_extra_walk_is_computed_as_the_host_does_where_the_size_does_not_halve_evenly():
    """As A1111's `th.cat` makes the two fit, nearest neighbours for the deeper one."""
    case = Case()
    case.unet.__class__ = type("Twice", (type(case.unet),), {"forward": walked_twice})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case.network.module, "th", Fitting())
        expected = case.call(1, latent=9)
        with SamplingPass(case.unet, Settings(interval=2, depth=1, forecast="off")) as run:
            for _ in range(2):
                run.start_evaluation()
                assert torch.equal(case.call(1, latent=9), expected)
    assert (run.statistics.reused, run.statistics.error) == (1, "")


def walked_twice(self, x, timesteps=None, context=None, **others):
    forward = type(self).__mro__[1].forward
    return sum(forward(self, x, timesteps, context * factor, **others) for factor in (1, 0.5))


class Fitting:
    """Torch as A1111 has a U-Net see it."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def cat(self, tensors, dim):
        h, skip = tensors
        if h.shape[-2:] != skip.shape[-2:]:
            h = torch.nn.functional.interpolate(h, skip.shape[-2:], mode="nearest")
        return torch.cat([h, skip], dim=dim)


def test_the_classes_own_forward_left_on_the_instance_is_not_foreign():
    unet = TaggedUNet()
    assert not has_foreign_forward(unet)
    unet.forward = unet.forward
    assert not has_foreign_forward(unet)
    unet.forward = lambda x: x
    assert has_foreign_forward(unet)


def test_the_unet_is_found_by_structure_inside_other_modules():
    case = Case()
    model = nn.ModuleDict({"first_stage": nn.Linear(2, 2), "model": nn.Sequential(case.unet)})
    assert find_unet(model) is case.unet
    assert max_depth(case.unet) == 11
    assert max_depth(Case("SDXL").unet) == 8


class ControlBranch(nn.Module):
    """Has a U-Net's input and middle blocks but no output blocks, as a ControlNet."""

    def __init__(self):
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.Identity()] * 12)
        self.middle_block = nn.Identity()


@pytest.mark.parametrize("model", [nn.Linear(2, 2), ControlBranch(), None, "unet"], ids=lambda m: type(m).__name__)
def test_anything_without_a_unets_blocks_is_refused_with_one_sentence(model):
    with pytest.raises(ValueError, match=f"^{type(model).__name__} has no U-Net with input_blocks"):
        SamplingPass(model, Settings())


@pytest.mark.parametrize("view", VIEWS)
def test_tensors_need_no_address(view, monkeypatch):
    def opaque(_tensor):
        raise RuntimeError("Cannot access data pointer of Tensor that doesn't have storage")

    outputs = []
    for attempt in range(2):
        if attempt:
            monkeypatch.setattr(torch.Tensor, "data_ptr", opaque)
        case = Case()
        with SamplingPass(case.unet, Settings(interval=2), view=view) as run:
            for step in range(2):
                run.start_evaluation()
                outputs.append(case.call(step))
        assert (run.statistics.reused, run.statistics.error) == (1, "")
    assert torch.equal(torch.stack(outputs[:2]), torch.stack(outputs[2:]))


def test_a_unet_is_seen_while_its_block_lists_are_exchanged():
    case, asked = Case(), []
    handle = case.unet.out.register_forward_pre_hook(lambda *_: asked.append(check_for_unet(case.unet)))
    with SamplingPass(case.unet, Settings(interval=2, depth=1)) as run:
        for _ in range(2):
            run.start_evaluation()
            case.call(1)
    handle.remove()
    assert (run.statistics.reused, len(asked)) == (1, 2)
    with pytest.raises(ValueError, match="ControlBranch has no U-Net"):
        check_for_unet(ControlBranch())


def test_a_depth_that_the_unet_lacks_is_refused():
    with pytest.raises(ValueError, match="depth must be a whole number from 0 to 8 for this U-Net; got 9"):
        SamplingPass(Case("SDXL").unet, Settings(depth=9))
