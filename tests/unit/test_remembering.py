"""Forwards of somebody else's on a U-Net's attentions, which remember something from call to call."""

import pytest
import torch

from deepcache_ext import SamplingPass, Settings
from deepcache_ext.network.memory import remembers
from deepcache_ext.network.remembering import Watch
from tests.unit.unets import VIEWS, Case, state_of

count = 0


def counted():
    global count  # noqa: PLW0603 - as such an extension does
    count += 1


class Counter:
    """Counts the calls of attentions, as extensions do that want to know when a call of the U-Net ends."""

    def __init__(self, unet):
        self.unet = unet
        self.count = 0
        self.attentions = [module for name, module in unet.named_modules() if name.endswith("attn2")]
        for attention in self.attentions:
            attention.forward = self.around(attention)

    def around(self, attention):
        original = attention.forward

        def forward(*args, **kwargs):
            self.count += 1
            return original(*args, **kwargs) * (1 + self.count // (len(self.attentions) + 1))

        return forward

    def remove(self):
        for attention in self.attentions:
            del attention.forward


@pytest.fixture
def case():
    return Case("SD1.5")


@pytest.fixture
def counter(case):
    counter = Counter(case.unet)
    yield counter
    counter.remove()


def stored(holder):
    def forward(x):
        holder.seen = x
        return x

    return forward


def of_a_function_beside(_holder):
    def forward(x):
        def inner():
            counted()
            return x

        return inner()

    return forward


def outer_variable(_holder):
    calls = 0

    def forward(x):
        nonlocal calls
        calls += 1
        return x

    return forward


def plain(holder):
    def forward(x):
        scaled = x * holder.scale

        def inner():
            nonlocal scaled
            scaled = scaled + 1
            return scaled

        return inner()

    return forward


@pytest.mark.parametrize("make", [stored, of_a_function_beside, outer_variable])
def test_what_outlives_a_call_is_seen(case, make):
    assert remembers(make(case))


def test_a_forward_that_remembers_nothing_is_none_of_them(case):
    assert not remembers(plain(case))
    assert not remembers(len)
    attention = next(module for name, module in case.unet.named_modules() if name.endswith("attn2"))
    attention.forward = plain(case)
    assert Watch([case.unet]).modules() == ()


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("view", VIEWS)
def test_a_reuse_calls_them_as_often_as_the_whole_network_would(case, counter, view, depth):
    with SamplingPass(case.unet, Settings(interval=3, depth=depth), view=view) as run:
        for seed in range(6):
            run.start_evaluation()
            counter.count = 0
            case.call(seed)
            assert counter.count == len(counter.attentions) == 16
    assert (run.statistics.reused, run.statistics.missed) == (4, 0)


def test_what_they_are_given_is_what_the_refresh_of_the_same_rows_gave_them(case, counter):
    """The rows come in other calls than before, so that the first reuse has nothing to give them."""
    given = []
    deepest = counter.attentions[6]  # the middle block's
    hook = deepest.register_forward_pre_hook(lambda _module, args: given.append(args[0].clone()))
    with SamplingPass(case.unet, Settings(interval=3, depth=1)) as run:
        for seeds in ([1], [2, 3], [4, 5]):
            run.start_evaluation(keys=range(2))
            for seed in seeds:
                case.call(seed, rows=2 // len(seeds))
    hook.remove()
    assert len(given) == 5
    assert not torch.equal(given[1], given[2])
    assert all(torch.equal(again, first) for again, first in zip(given[3:], given[1:3], strict=True))
    assert run.statistics.calls_reused == 2


def test_an_error_of_theirs_on_a_reuse_ends_caching_and_the_picture_is_made(case, counter):
    deepest = counter.attentions[6]  # the middle block's
    with SamplingPass(case.unet, Settings(interval=2, depth=1)) as run:
        run.start_evaluation()
        case.call(1)

        def fails(*_args):
            counter.count += 1
            raise ValueError("no")

        handle = deepest.register_forward_pre_hook(fails)
        run.start_evaluation()
        case.call(2)
        handle.remove()
    assert run.statistics.error.endswith("ValueError: no")


def test_nothing_is_left_on_them(case, counter):
    before = state_of(case.unet)
    with SamplingPass(case.unet, Settings(interval=2, depth=1)) as run:
        for seed in range(2):
            run.start_evaluation()
            case.call(seed)
    assert counter.count == 32
    assert state_of(case.unet) == before
