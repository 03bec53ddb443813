"""The timer of calls, with a stand-in for torch's events, for the machine may have no graphics card."""

from functools import partial

import pytest
import torch

from deepcache_ext.timer import CallTimer
from tests.unit.unets import TaggedUNet


class Event:
    """Notes in `recorded` on the stream of which device it is recorded, each 1 s after the one before."""

    def __init__(self, recorded, *, enable_timing):
        assert enable_timing
        self.recorded = recorded

    def record(self, stream=None):
        self.recorded.append("the current device" if stream is None else stream)
        self.seconds = len(self.recorded)

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1000.0 * (end.seconds - self.seconds)


class OnCard(torch.Tensor):
    """A tensor that says of itself that it is on a card."""

    device = torch.device("cuda", 1)


@pytest.fixture
def events(monkeypatch):
    recorded = []
    monkeypatch.setattr(torch.cuda, "Event", partial(Event, recorded))
    monkeypatch.setattr(torch.cuda, "current_stream", str)
    return recorded


def test_a_call_is_timed_on_the_card_of_its_input_whichever_the_current_one_is(events):
    unet = TaggedUNet()
    timer = CallTimer(unet, lambda: "full")
    timer.install()
    unet(torch.ones(1, 2, 4, 4).as_subclass(OnCard))
    timer.remove()
    assert events == ["cuda:1", "cuda:1"]
    assert timer.seconds() == {("full", (1, 2, 4, 4)): [1.0]}


def test_on_a_processor_the_clock_is_asked(events):
    unet = TaggedUNet()
    timer = CallTimer(unet, lambda: "full")
    timer.install()
    unet(torch.ones(1, 2, 4, 4))
    timer.remove()
    assert not events
    assert all(seconds[0] > 0 for seconds in timer.seconds().values())
