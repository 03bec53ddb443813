"""The hook on the U-Net: what it leaves behind after exceptions, other passes and other people's hooks."""

from collections import OrderedDict

import pytest
import torch

from deepcache_ext import SamplingPass, Settings
from deepcache_ext.sampling import TAKEN_OFF
from tests.unit.unets import VIEWS, Case, TaggedUNet, state_of


class BrokenBlockError(Exception):
    """Raised inside a block."""


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("error", [BrokenBlockError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["refresh", "reuse"])
def test_after_a_pass_the_module_tree_is_untouched_even_if_a_block_raised(view, error, where):
    case = Case()
    before, tree = state_of(case.unet), list(case.unet.modules())

    def raise_error(*_):
        raise error

    run = SamplingPass(case.unet, Settings(interval=2), view=view).install()
    run.start_evaluation()
    if where == "reuse":
        case.call(1)
        run.start_evaluation()
    handle = case.unet.output_blocks[-1].register_forward_hook(raise_error)
    with pytest.raises(error):
        case.call(1)
    handle.remove()
    if error is BrokenBlockError:
        assert list(case.unet.modules()) == tree
    run.remove()
    assert state_of(case.unet) == before
    assert run.kept_bytes == 0


def test_installing_and_removing_in_any_order_is_harmless():
    case = Case()
    before = state_of(case.unet)
    untouched = case.call(1)
    first, second = (SamplingPass(case.unet, Settings(interval=2)) for _ in range(2))
    first.remove()
    first.install().install()
    first.start_evaluation()
    case.call(1)
    assert first.kept_bytes > 0
    second.install()
    assert first.kept_bytes == 0
    assert len(case.unet._forward_pre_hooks) == 1
    first.remove()
    for run in (first, second):
        run.start_evaluation()
    assert torch.equal(case.call(1), untouched)
    second.start_evaluation()
    case.call(2)
    assert second.statistics.reused == 1
    assert first.statistics.calls_full == 1
    second.remove()
    second.remove()
    assert state_of(case.unet) == before
    assert torch.equal(case.call(1), untouched)


@pytest.mark.parametrize("view", VIEWS)
def test_a_pass_starts_by_putting_back_what_an_abandoned_one_left(view):
    case = Case()
    before, untouched = state_of(case.unet), case.call(1)
    abandoned = SamplingPass(case.unet, Settings(interval=2), view=view).install()
    abandoned.start_evaluation()
    case.call(1)
    abandoned.start_evaluation()
    handle = case.unet.output_blocks[-1].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        case.call(1)
    handle.remove()
    with SamplingPass(case.unet, Settings(interval=2, depth=11)) as run:
        run.start_evaluation()
        assert torch.equal(case.call(1), untouched)
    assert state_of(case.unet) == before


def test_other_peoples_hooks_survive_in_any_order():
    unet = TaggedUNet()
    calls = []
    theirs = unet.register_forward_pre_hook(lambda *_: calls.append("theirs"))
    run = SamplingPass(unet, Settings(interval=2)).install()
    unet.output_blocks[1].register_forward_hook(lambda *_: calls.append("later"))
    run.start_evaluation()
    unet(torch.zeros(1, 2, 4, 4))
    theirs.remove()
    run.remove()
    unet(torch.zeros(1, 2, 4, 4))
    assert calls == ["theirs", "later", "later"]


def test_without_always_called_hooks_the_next_evaluation_puts_the_blocks_back(monkeypatch):
    """torch 2.0 can't run a hook after an exception."""
    monkeypatch.setattr("deepcache_ext.network.own_hooks._ALWAYS", {})
    case = Case()
    tree = list(case.unet.modules())
    untouched = case.call(1)
    with SamplingPass(case.unet, Settings(interval=2)) as run:
        run.start_evaluation()
        case.call(1)
        run.start_evaluation()
        with pytest.raises(RuntimeError):
            case.unet(**(case.inputs(1) | {"context": torch.zeros(1)}))
        run.start_evaluation()
        assert list(case.unet.modules()) == tree
        assert torch.equal(case.call(1), untouched)
    assert list(case.unet.modules()) == tree


def remove_forward_hooks(module, name):
    """Remove forward hooks by their name, as the snippet does that extensions copy (pytorch's issue 70455)."""
    for part in module.modules():
        part._forward_hooks = OrderedDict((key, fn) for key, fn in part._forward_hooks.items() if fn.__name__ != name)


def test_who_removes_hooks_by_name_finds_theirs_and_leaves_ours_until_they_are_removed():
    unet = TaggedUNet()
    before = state_of(unet)

    def theirs(*_):
        raise BrokenBlockError

    with SamplingPass(unet, Settings(interval=2)) as run:
        for evaluation in range(4):
            if evaluation == 1:
                unet.register_forward_hook(theirs)
                remove_forward_hooks(unet, "theirs")
            run.start_evaluation()
            unet(torch.zeros(1, 2, 4, 4))
    assert (run.statistics.full, run.statistics.reused, run.statistics.error) == (2, 2, "")
    assert state_of(unet) == before


@pytest.mark.parametrize(
    "where", [["_forward_pre_hooks"], ["_forward_hooks"], ["_forward_pre_hooks", "_forward_hooks"]]
)
def test_a_hook_that_somebody_has_removed_is_told_and_all_that_follows_is_computed_in_full(where):
    unet = TaggedUNet()
    before = state_of(unet)
    origins = []
    with SamplingPass(unet, Settings(interval=3)) as run:
        for evaluation in range(9):
            if evaluation == 4:
                for hooks in where:
                    getattr(unet, hooks).clear()
            run.start_evaluation()
            origins.append(int(unet(torch.full((1, 2, 4, 4), float(evaluation)))[0, 0, 0, 0]))
    assert origins == [0, 0, 0, 3, 4, 5, 6, 7, 8]
    assert run.statistics.reason == TAKEN_OFF
    assert (run.statistics.full, run.statistics.reused, run.kept_bytes) == (2, 2, 0)
    assert state_of(unet) == before
