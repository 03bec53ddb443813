"""What callers do with a U-Net in the middle of a pass: copy it, save it, compile it, begin another pass on it."""

import copy
import io

import pytest
import torch

from deepcache_ext import Action, SamplingPass, Settings
from deepcache_ext.sampling import COMPILED, DISPLACED
from deepcache_ext.timer import CallTimer
from tests.unit.unets import TaggedUNet, state_of

X = torch.ones(1, 2, 4, 4)


def evaluated(run, unet, value):
    """Make an evaluation and return what it did and from which one its deep feature came."""
    action = run.start_evaluation()
    return action, int(unet(value * X)[0, 0, 0, 0])


def saved(unet):
    file = io.BytesIO()
    torch.save(unet, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deep copy": copy.deepcopy,
    "copy": copy.copy,
    "saved": saved,
    "deep copy of a model with it": lambda unet: copy.deepcopy(torch.nn.Sequential(unet))[0],
}


@pytest.mark.parametrize("made", COPIES.values(), ids=COPIES)
def test_a_copy_in_mid_pass_is_as_one_before_it_and_leaves_the_pass_alone(made):
    unet = TaggedUNet()
    before = [(name, attributes, hooks) for name, _, attributes, hooks in state_of(made(unet))]
    timer = CallTimer(unet, lambda: "")
    with SamplingPass(unet, Settings(interval=2)) as run:
        timer.install()
        assert [evaluated(run, unet, value)[1] for value in range(2)] == [0, 0]
        other = made(unet)
        assert [(name, attributes, hooks) for name, _, attributes, hooks in state_of(other)] == before
        kept = run.kept_bytes
        assert [int(other(value * X)[0, 0, 0, 0]) for value in (7, 8, 9)] == [7, 8, 9]
        assert (run.kept_bytes, run.statistics.calls_reused) == (kept, 1)
        assert [evaluated(run, unet, value)[1] for value in range(2, 4)] == [2, 2]
        timer.remove()
    assert [(name, attributes, hooks) for name, _, attributes, hooks in state_of(unet)] == before


def test_a_copy_keeps_other_peoples_hooks():
    unet = TaggedUNet()
    unet.register_forward_hook(_doubled)
    with SamplingPass(unet, Settings(interval=2)):
        other = copy.deepcopy(unet)
    assert torch.equal(other(X), unet(X))
    assert torch.equal(other(X)[0, 0], 2 * X[0, 0])


def _doubled(_unet, _args, output):
    return 2 * output


def test_a_pass_that_another_one_displaces_says_so_and_computes_in_full():
    unet = TaggedUNet()
    outer = SamplingPass(unet, Settings(interval=6)).install()
    assert [evaluated(outer, unet, value) for value in range(2)] == [(Action.REFRESH, 0), (Action.REUSE, 0)]
    with SamplingPass(unet, Settings(interval=2)) as inner:
        assert [evaluated(inner, unet, value)[1] for value in range(5, 7)] == [5, 5]
    assert inner.statistics.reason == ""
    assert [evaluated(outer, unet, value) for value in range(2, 4)] == [(Action.FULL, 2), (Action.FULL, 3)]
    assert outer.statistics.reason == DISPLACED
    assert evaluated(outer.install(), unet, 4)[1] == 4
    assert outer.statistics.reason == ""
    outer.remove()


def test_a_pass_that_stopped_for_an_error_computes_in_full_on_the_next_unet_too(monkeypatch):
    first, second = TaggedUNet(), TaggedUNet()
    run = SamplingPass(first, Settings(interval=2)).install()
    with monkeypatch.context() as patch:
        patch.setattr("deepcache_ext.features.store.RowStore.keep", _fails)
        evaluated(run, first, 0)
    assert evaluated(run, first, 1) == (Action.FULL, 1)
    run.move(second)
    assert [evaluated(run, second, value) for value in range(2, 5)] == [(Action.FULL, value) for value in range(2, 5)]
    assert run.statistics.error
    assert run.statistics.reused == 0
    run.remove()


def _fails(*_, **__):
    raise MemoryError


def compiled_in_place(unet):
    unet.compile(backend="eager")
    return unet


def wrapped(unet):
    return torch.compile(unet, backend="eager")


def inside_a_wrapper(unet):
    return torch.nn.Sequential(torch.compile(torch.nn.Sequential(unet), backend="eager"))


@pytest.mark.parametrize("made", [compiled_in_place, wrapped, inside_a_wrapper])
def test_a_unet_that_was_compiled_before_is_refused(made):
    model = made(TaggedUNet())
    with pytest.raises(ValueError, match=r"^the U-Net was compiled before"):
        SamplingPass(model, Settings()).install()
    run = SamplingPass(TaggedUNet(), Settings()).install()
    with pytest.raises(ValueError, match=COMPILED):
        run.move(model)
    assert run.kept_bytes == 0


def test_a_unet_that_is_compiled_in_a_pass_and_another_part_of_the_model_may_be():
    unet = TaggedUNet()
    model = torch.nn.Sequential(torch.compile(torch.nn.Identity(), backend="eager"), unet)
    with SamplingPass(model, Settings(interval=2)) as run:
        unet.compile(backend="eager")
        assert [evaluated(run, unet, value)[1] for value in range(4)] == [0, 0, 2, 2]
