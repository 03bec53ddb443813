"""Forwards of somebody else's on a U-Net's attentions, which remember something from call to call."""

import functools

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


class Calls:
    """Counts its own calls as a forward around another."""

    def __init__(self, original):
        self.original = original
        self.calls = []

    def __call__(self, *args, **kwargs):
        self.calls.append(len(args))
        return self.original(*args, **kwargs)


def as_an_object(original):
    return (counting := Calls(original)), lambda: len(counting.calls)


def as_a_partial(original):
    def forward(state, *args, **kwargs):
        state["calls"] = state.get("calls", 0) + 1
        return original(*args, **kwargs)

    state = {}
    return functools.partial(forward, state), lambda: state["calls"]


def in_a_dict(original):
    state = {"calls": 0}

    def forward(*args, **kwargs):
        state["calls"] += 1
        return original(*args, **kwargs)

    return forward, lambda: state["calls"]


def in_a_list(original):
    maps = []

    def forward(*args, **kwargs):
        maps.append(args[0].mean())
        return original(*args, **kwargs)

    return forward, lambda: len(maps)


FORMS = [as_an_object, as_a_partial, in_a_dict, in_a_list]
INTERVAL_3 = Settings(interval=3, depth=1)


def middle_attention(unet, name="attn2"):
    return next(module for path, module in unet.middle_block.named_modules() if path.endswith(name))


def evaluate(case, run, count, before=lambda _number: None):
    for number in range(count):
        before(number)
        run.start_evaluation()
        case.call(number)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("view", VIEWS)
def test_every_form_of_memory_in_a_forward_is_called_again(case, view, form):
    attention = middle_attention(case.unet)
    attention.forward, calls = form(attention.forward)
    with SamplingPass(case.unet, INTERVAL_3, view=view) as run:
        evaluate(case, run, 6)
    assert calls() == 6
    assert (run.statistics.reused, run.statistics.missed) == (4, 0)


HOOKED = {
    "a query's projection": lambda unet: middle_attention(unet).to_q,
    "a key's projection": lambda unet: middle_attention(unet).to_k,
    "an attention": middle_attention,
    "the last layer of a block that depth 0 skips": lambda unet: unet.output_blocks[11][1].proj_out,
}


@pytest.mark.parametrize("where", HOOKED.values(), ids=HOOKED)
@pytest.mark.parametrize("view", VIEWS)
def test_hooks_that_collect_are_called_on_a_reuse_too(case, view, where):
    maps = {}
    where(case.unet).register_forward_hook(lambda module, _args, output: maps.setdefault(module, output))

    def read(number):
        assert len(maps) == (number > 0)
        maps.clear()

    with SamplingPass(case.unet, Settings(interval=3, depth=0), view=view) as run:
        evaluate(case, run, 6, before=read)
    assert len(maps) == 1
    assert run.statistics.reused == 4


def test_an_attention_and_a_layer_in_it_are_called_once_together(case):
    attention, calls = middle_attention(case.unet), []
    attention.forward, counted_calls = in_a_dict(attention.forward)
    attention.to_q.register_forward_hook(lambda *_: calls.append(1))
    with SamplingPass(case.unet, INTERVAL_3) as run:
        evaluate(case, run, 6)
    assert (counted_calls(), len(calls)) == (6, 6)


def test_hooks_of_the_host_and_those_that_remember_nothing_are_left_alone(case):
    calls = []

    def moves_weights(*_args):
        calls.append(1)

    case.unet.middle_block.register_forward_pre_hook(moves_weights)
    case.unet.middle_block[0].register_forward_hook(lambda _module, _args, output: output * 1)
    with SamplingPass(case.unet, INTERVAL_3, is_hosts=lambda hook: hook is moves_weights) as run:
        evaluate(case, run, 6)
    assert len(calls) == 2
    assert run.statistics.calls_reused == 4


@pytest.mark.parametrize("hooks", [False, True])
def test_one_that_comes_in_mid_run_has_the_next_reuse_computed_and_is_called_from_then_on(case, hooks):
    attention, counting = middle_attention(case.unet), []

    def begin(number):
        if number == 4 and hooks:
            attention.to_q.register_forward_hook(lambda *_: counting.append(1))
        elif number == 4:
            attention.forward = Calls(attention.forward)
            counting.append(attention.forward)

    with SamplingPass(case.unet, INTERVAL_3) as run:
        evaluate(case, run, 9, before=begin)
    assert (len(counting) if hooks else len(counting[0].calls)) == 5
    assert (run.statistics.reused, run.statistics.missed) == (5, 1)


def test_one_that_is_taken_away_in_mid_run_is_called_no_more(case):
    attention = middle_attention(case.unet)
    heard = []
    attention.forward, calls = in_a_dict(attention.forward)

    def begin(number):
        if number == 4:
            del attention.forward
            heard.append(calls())

    with SamplingPass(case.unet, INTERVAL_3) as run:
        evaluate(case, run, 6, before=begin)
    assert heard == [calls()] == [4]
    assert run.statistics.reused == 4


def test_an_attention_that_is_exchanged_inside_its_block_is_seen_at_the_next_refresh(case):
    block = next(module for module in case.unet.middle_block.modules() if "attn2" in module._modules)
    made = []

    def begin(number):
        if number == 2:
            block.attn2 = type(block.attn2)(32 * 4, 48, heads=8, dim_head=16).requires_grad_(requires_grad=False)
            block.attn2.forward = Calls(block.attn2.forward)
            made.append(block.attn2.forward)

    with SamplingPass(case.unet, INTERVAL_3) as run:
        evaluate(case, run, 6, before=begin)
    assert len(made[0].calls) == 3
    assert run.statistics.missed == 0


def on_the_card_when_called(unet):
    """Keep the weights of the block that was called last in single precision and all others in double.

    That stands for a host's hook which has one block at a time on the card: layers elsewhere raise.
    """
    there = []

    def send_to_card(block, _args):
        if there != [block]:
            for before in there:
                before.double()
            there[:] = [block.float()]

    for block in (unet.time_embed, *unet.input_blocks, unet.middle_block, *unet.output_blocks):
        block.double().register_forward_pre_hook(send_to_card)
    return send_to_card


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("view", VIEWS)
def test_the_host_moves_a_blocks_weights_before_what_is_in_it_is_called_again(case, view, depth, hooks):
    counting = []
    if hooks:
        for name in ("attn1", "attn2"):
            middle_attention(case.unet, name).to_q.register_forward_hook(lambda *_: counting.append(1))
        case.unet.input_blocks[8][1].transformer_blocks[0].attn2.register_forward_hook(lambda *_: counting.append(1))
    else:
        counting = Counter(case.unet)
    send = on_the_card_when_called(case.unet)
    calls = []
    with SamplingPass(
        case.unet, Settings(interval=3, depth=depth), view=view, is_hosts=lambda hook: hook is send
    ) as run:
        for number in range(4):
            run.start_evaluation()
            case.call(number)
            calls.append(len(counting) if hooks else counting.count)
    assert (run.statistics.error, run.statistics.reused) == ("", 2)
    assert calls == [number * (3 if hooks else 16) for number in range(1, 5)]
