"""Telling by its code whether a function remembers something from call to call."""

import collections
import functools
import itertools

import pytest
import torch
from ldm.modules.attention import CrossAttention, MemoryEfficientCrossAttention

from deepcache_ext.network.memory import remembers


class Holder:
    """What an extension may hold its memory in."""

    scale = 2

    def __init__(self):
        self.count = 0
        self.maps = []
        self.by_layer = {}

    def record(self, x):
        self.maps.append(x)

    def scaled(self, x):
        return x * self.scale


def stores_an_item():
    state = {}

    def forward(x):
        state["x"] = x
        return x

    return forward


def counts_in_a_dict():
    state = {"calls": 0}

    def forward(x):
        state["calls"] += 1
        return x

    return forward


def stores_deep_down():
    state = [{"maps": torch.zeros(4)}]

    def forward(x):
        state[0]["maps"][1:3] = x
        return x

    return forward


def appends():
    maps = []

    def forward(x):
        maps.append(x)
        return x

    return forward


def appends_to_what_it_looks_up():
    state = collections.defaultdict(list)

    def forward(x):
        maps = state.get("maps")
        maps.append(x)
        return x

    return forward


def appends_by_another_name():
    holder = Holder()

    def forward(x):
        maps = holder.maps
        maps.append(x)
        return x

    return forward


def fills_what_it_goes_through():
    holder = Holder()

    def forward(x):
        for kept in holder.maps:
            kept[0] = x
        return x

    return forward


def calls_a_method():
    holder = Holder()

    def forward(x):
        holder.record(x)
        return x

    return forward


def passed_on(store, x):
    store.append(x)


def passes_its_memory_on():
    store = []

    def forward(x):
        passed_on(store, x)
        return x

    return forward


def goes_on():
    numbers = itertools.count()

    def forward(x):
        return x + next(numbers)

    return forward


def wraps_one():
    original = appends()

    def forward(x):
        return original(x) * 2

    return forward


def has_a_default():
    def forward(x, seen=[]):  # noqa: B006 - as such an extension does
        seen.append(x)
        return x

    return forward


def sets():
    holder = Holder()

    def forward(x):
        setattr(holder, "seen", x)  # noqa: B010
        return x

    return forward


def counted(state, x):
    state["calls"] = state.get("calls", 0) + 1
    return x


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x


REMEMBER = {
    "an item is stored": stores_an_item(),
    "an item counts": counts_in_a_dict(),
    "a slice is stored": stores_deep_down(),
    "a list grows": appends(),
    "a list that is looked up grows": appends_to_what_it_looks_up(),
    "a list of another name grows": appends_by_another_name(),
    "what a loop goes through is filled": fills_what_it_goes_through(),
    "a method of an object": calls_a_method(),
    "a helper with what to change": passes_its_memory_on(),
    "an iterator": goes_on(),
    "around one": wraps_one(),
    "a default": has_a_default(),
    "setattr": sets(),
    "a partial": functools.partial(counted, {}),
    "a partial by name": functools.partial(counted, state={}),
    "a partial of a partial": functools.partial(functools.partial(counted), {}),
    "an object": Counter(),
    "a partial of an object": functools.partial(Counter()),
    "a bound method": Holder().record,
    "a list's own method": [].append,
    "under torch's decorators": torch.no_grad()(torch.autocast("cpu")(appends())),
}


def works_on_its_own():
    def forward(x):
        found, parts = {}, []
        found["x"] = x
        parts.append(x)
        out = torch.zeros(4)
        out[1:3] = x
        out[0] += 1
        return [part * 2 for part in parts], found, out.add(x.add(1))

    return forward


def takes_keywords():
    def forward(x, *args, **kwargs):
        kwargs.pop("value", None)
        kwargs["scale"] = len(args)
        return x

    return forward


def writes_into_its_input():
    def forward(x, context=None):
        x[:, 0] = 0
        return x if context is None else context

    return forward


def asks_an_object():
    holder = Holder()

    def forward(x):
        return holder.scaled(x)

    return forward


def of_the_class(module):
    original = module.forward

    def forward(x):
        return original(x)

    return forward


REMEMBER_NOTHING = {
    "what it has made itself": works_on_its_own(),
    "keywords": takes_keywords(),
    "its input": writes_into_its_input(),
    "an object's method": asks_an_object(),
    "around the module's own": of_the_class(torch.nn.Linear(2, 2)),
    "a partial of what does not change": functools.partial(lambda scale, x: x * scale, 2),
    "under torch's decorators": torch.no_grad()(torch.autocast("cpu")(writes_into_its_input())),
    "the host's attention": CrossAttention.forward,
    "its other attention": MemoryEfficientCrossAttention.forward,
    "what is not Python": len,
    "a class": dict,
}


@pytest.mark.parametrize("function", REMEMBER.values(), ids=REMEMBER)
def test_it_remembers(function):
    assert remembers(function)


@pytest.mark.parametrize("function", REMEMBER_NOTHING.values(), ids=REMEMBER_NOTHING)
def test_it_remembers_nothing(function):
    assert not remembers(function)


def test_code_is_read_once():
    known = {}
    assert [remembers(appends(), known) for _ in range(3)] == [True] * 3
    assert len(known) == 1
