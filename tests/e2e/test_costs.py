"""What the extension costs the host: while it builds its page, and in a job that leaves it off."""

from pathlib import Path

import pytest

from tests.e2e.pictures import STEPS, Maker
from tests.e2e.server import EXTENSIONS, serving

BUILD = {"before_ui": 1, "ui": 6, "connect": 2, "app_started": 1}
"""Calls in one build: of the two tabs' panels, which the host's API builds twice more each for its defaults."""
JOB = {"process": 1, "launch_sampling": 1, "cfg_denoiser": 2 * STEPS, "postprocess": 1}
"""The job and the watch of a comparison both hear of each evaluation."""
TIMING = [Path(__file__).parent / "timing/scripts"]
OFTEN = 4
"""How often each is measured; the least counts."""


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    extensions = EXTENSIONS | {"e2e-timing": TIMING}
    with serving(webui, tmp_path_factory.mktemp("costs"), extensions=extensions) as running:
        yield Maker(running)


def calls_and_seconds(maker):
    """Return how often each function of the extension was called since the last question, and their CPU seconds."""
    found = maker.server.get("/e2e/seconds")
    return {name: len(calls) for name, calls in found.items()}, sum(map(sum, found.values()))


def test_building_the_page_takes_less_than_fifty_milliseconds(maker):
    builds = [calls_and_seconds(maker)]
    for reloads in range(1, OFTEN):
        maker.server.post("/e2e/reload")
        maker.server.wait_for_start(1 + reloads)
        builds.append(calls_and_seconds(maker))
    assert all(BUILD.items() <= calls.items() for calls, _ in builds), builds
    assert min(seconds for _, seconds in builds) < 0.05, builds


def test_a_job_that_is_off_costs_less_than_a_millisecond(maker):
    maker.make()
    calls_and_seconds(maker)
    jobs = []
    for _ in range(OFTEN):
        maker.make()
        jobs.append(calls_and_seconds(maker))
    assert all(calls == JOB for calls, _ in jobs), jobs
    assert min(seconds for _, seconds in jobs) < 0.001, jobs
