"""Whatever is sent, or asked for at once: settings or one sentence, and the same settings back."""

import json
import threading
from types import SimpleNamespace

from hypothesis import given as holds_for
from hypothesis import settings as limits
from hypothesis import strategies as st

from deepcache_ext import Schedule
from deepcache_ext.planning.settings import Choice, Number, WholeNumber
from deepcache_ext.webui import api, infotext
from deepcache_ext.webui.options import CONTROLS, Flag, given, resolved
from tests.webui.support import Processing, job

quick = limits(max_examples=150, deadline=None, database=None)
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=3)
)
FAMILIES = st.sampled_from(["SD1", "SD2", "SDXL"])


def accepted_by(kind):
    if isinstance(kind, WholeNumber):
        return st.integers(kind.minimum, kind.maximum)
    if isinstance(kind, Number):
        return st.floats(kind.minimum, kind.maximum).map(lambda number: round(number, 3))
    if isinstance(kind, Choice):
        return st.sampled_from(kind.options)
    return st.booleans() if isinstance(kind, Flag) else st.lists(st.integers(0, 30), max_size=4)


GOOD = {name: accepted_by(control.kind) for name, control in CONTROLS.items() if name != "enabled"}
NAMED = st.fixed_dictionaries({}, optional={name: st.one_of(good, ANYTHING) for name, good in GOOD.items()})
PANEL = st.tuples(st.just(True), *GOOD.values())


@quick
@holds_for(named=NAMED | st.dictionaries(st.text(max_size=20), ANYTHING, max_size=2), family=FAMILIES)
def test_what_is_named_gives_options_or_one_sentence(named, family):
    told = "fine"
    try:
        resolved(given([{**named, "enabled": True}]), family)
    except ValueError as error:
        told = str(error)
    assert 0 < len(told) <= 200
    assert "\n" not in told


@quick
@holds_for(panel=PANEL, family=FAMILIES)
def test_infotext_brings_back_what_any_panel_says(panel, family):
    try:
        before = resolved(given(panel), family)
    except ValueError:
        return
    text = {key: str(value) for key, value in before.infotext().items()}
    pasted = [read(text) for _, read in infotext.fields(list(CONTROLS))]
    after = resolved(given(pasted), family)
    assert (after.base.schedule, after.hires is None, after.inner) == (
        before.base.schedule,
        before.hires is None,
        before.inner,
    )
    for one, other in ((before.base, after.base), (before.hires, after.hires)):
        if one is not None:
            assert Schedule(one, 20).actions() == Schedule(other, 20).actions()
            assert (one.depth, one.forecast) == (other.depth, other.forecast)


def test_the_last_run_can_be_asked_for_while_jobs_run(controller):
    found, done = [], threading.Event()

    def ask():
        while not done.is_set():
            found.append(json.dumps(api.last_run(controller, SimpleNamespace(of_last_run=None))))

    job(controller, Processing(), {"enabled": True, "interval": 3})
    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for _ in range(20):
        job(controller, Processing(), {"enabled": True, "interval": 3})
    done.set()
    for thread in asking:
        thread.join()
    assert all("txt2img" in told for told in found)
    assert found
