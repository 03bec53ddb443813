"""What the host's samplers answer before a run, and what they then do."""

import statistics

import pytest

from tests.e2e.pictures import Maker, pixels, same
from tests.e2e.server import EXTENSIONS, ROOT, serving
from tests.e2e.test_samplers import DECIDE_THEMSELVES, TOLD

PATHS = ("txt2img", "img2img", "hires")
STEPS = (5, 20, 30, 150)
SMALL = {"width": 64, "height": 64, "steps": 5}
NOISY = (
    "Euler", "Euler a", "DPM2 a", "DPM++ 2S a", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE", "DPM++ 2M", "LCM",
    "DPM++ SDE Karras", "Restart",
)  # fmt: skip
EXACT = 1e-5
"""How far the weights may be from what the function makes of random numbers in 15 steps, as a part of the largest; in
single precision, in which the host runs its samplers, and farther in more steps, over which rounding adds up."""


@pytest.fixture(scope="module")
def host(webui, tmp_path_factory):
    """Run the host with the helper that launches its samplers on a stand-in denoiser."""
    extensions = EXTENSIONS | {"e2e-runs": (ROOT / "tests/e2e/runs/scripts",)}
    with serving(webui, tmp_path_factory.mktemp("runs"), extensions=extensions) as running:
        maker = Maker(running)
        maker.make(width=64, height=64, steps=1)  # loads the checkpoint
        yield maker


@pytest.fixture(scope="module")
def found(host):
    """Return every run of every sampler: with the sampler's own schedule of noise levels, and 20 steps with any."""
    server, runs = host.server, []
    names = [sampler["name"] for sampler in server.get("/sdapi/v1/samplers")]
    status, schedulers = server.request("/sdapi/v1/schedulers")
    labels = [scheduler["label"] for scheduler in schedulers] if status == 200 else []
    for path in PATHS:
        for name in names:
            asked = [("", STEPS), ("|".join(labels), (20,))]
            for schedulers, steps in asked if labels else asked[:1]:
                request = {"path": path, "sampler": name, "schedulers": schedulers, "steps": list(steps)}
                runs += [{"path": path, "name": name} | run for run in server.post("/e2e/runs", request)]
    return runs


def test_every_sampler_makes_the_evaluations_that_it_answers(found):
    launched = [run for run in found if "host" not in run]
    silent = [run for run in launched if run.get("asked") is None]
    _show("asked = made", [run for run in launched if run.get("asked") is not None], silent)
    wrong = [run for run in launched if run.get("asked") not in {None, run.get("made")}]
    assert wrong == []
    # what has no answer decides itself, or fails in the run as well
    assert [run for run in silent if run.get("reason") and isinstance(run.get("made"), int)] == []
    assert {run["name"] for run in silent if not run.get("reason")} <= DECIDE_THEMSELVES
    assert len(launched) > len(found) / 2


def test_the_weights_are_the_functions_own(found):
    linear = [run for run in found if "error" in run]
    assert {run["name"] for run in linear} >= {"Euler", "DPM++ 2M", "Heun", "LMS", "DDIM", "Euler a"}
    far: dict[tuple[str, int], float] = {}
    for run in linear:
        case = run["name"], run["steps"]
        far[case] = max(run["error"], far.get(case, 0.0))
    print({case: f"{error:.1e}" for case, error in far.items() if error > EXACT / 10})
    assert {case: error for case, error in far.items() if not error <= EXACT * max(1, case[1] / 15)} == {}


def test_a_dry_run_leaves_no_trace(found):
    assert [run for run in found if run.get("traces")] == []


def test_off_and_at_interval_one_nothing_is_asked_and_the_pictures_are_those_of_the_host(host):
    server = host.server
    present = [name for name in NOISY if name in {sampler["name"] for sampler in server.get("/sdapi/v1/samplers")}]
    assert len(present) >= 9
    server.get("/e2e/dry-runs")
    for name in present:
        without, off, one = (
            host.make(cache=cache, sampler_name=name, batch_size=3, **SMALL)
            for cache in (None, {"enabled": False}, {"interval": 1})
        )
        assert without["images"] == off["images"], name
        assert same(without, one), name
    assert server.get("/e2e/dry-runs") == []


def test_the_first_picture_is_the_second_to_the_bit(host):
    server, wrong = host.server, {}
    for name in [sampler["name"] for sampler in server.get("/sdapi/v1/samplers")]:
        if name.removesuffix(" Karras").removesuffix(" Exponential") in TOLD | DECIDE_THEMSELVES:
            continue
        server.get("/e2e/dry-runs")
        status, _ = server.request("/sdapi/v1/txt2img", SMALL | {"prompt": "a", "sampler_name": name})
        if status != 200:  # without DeepCache too
            continue
        pictures, plans = [], []
        for _ in range(2):
            pictures.append(host.make(cache={"interval": 3}, sampler_name=name, **SMALL))
            (done,) = host.last_run()["passes"]
            plans.append((done["planned"], done["plan"], done["statistics"]["full"], done["statistics"]["reused"]))
        asked = server.get("/e2e/dry-runs")
        if not same(*pictures) or plans[0] != plans[1] or plans[0][0] is None or asked != [name, name]:
            wrong[name] = (same(*pictures), plans, asked)
    assert wrong == {}


@pytest.fixture
def _renaming(host):
    host.server.post("/e2e/rename?on=true")
    yield
    host.server.post("/e2e/rename?on=false")


def _planned(host, **request):
    """Return the one pass of a picture: its evaluations as expected, its full ones, and why none was reused."""
    host.make(**{"cache": {"preset": "Fast"}, "steps": 20, "width": 64, "height": 64} | request)
    (done,) = host.last_run()["passes"]
    return done["planned"], done["plan"], done["reason"]


@pytest.mark.parametrize("name", ["DPM++ 2M", "LMS", "DPM adaptive"])
def test_a_renamed_sampler_is_planned_as_what_it_is(host, request, name):
    original = _planned(host, sampler_name=name)
    request.getfixturevalue("_renaming")
    assert _planned(host, sampler_name=name) == original
    (done,) = host.last_run()["passes"]
    assert done["sampler"].endswith(" of another extension")


@pytest.fixture
def register(host):
    """Have another extension's function stand behind the name "Euler"."""
    yield lambda function: host.server.post(f"/e2e/register?name=Euler&function={function}")
    host.server.post("/e2e/register?name=Euler")


def test_a_sampler_of_another_extension_is_planned_as_what_it_is_whatever_its_name(host, register):
    planned, plan, _ = _planned(host, sampler_name="Heun", scheduler="Uniform")
    register("sample_twice")
    assert _planned(host, sampler_name="Euler", scheduler="Uniform")[:2] == (planned, plan)
    assert planned == 39


def test_evaluations_at_half_size_in_between_take_nothing_away(host, register):
    cache = {"schedule": "list", "steps": "0-1, 4, 7", "depth": 1}
    request = {"sampler_name": "Euler", "steps": 10, "width": 128, "height": 128}
    usual = host.make(cache=cache, **request)
    assert host.counts() == [("txt2img", 4, 6)]
    register("sample_halves")
    made = host.make(cache=cache, **request)
    assert host.counts() == [("txt2img", 6, 6)]
    assert host.last_run()["passes"][0]["planned"] == 12
    assert closest(made, usual) <= 1


def closest(one, other):
    """Return how far apart the pictures are at most, of 255."""
    return max(int(abs(pixels(a) - pixels(b)).max()) for a, b in zip(one["images"], other["images"], strict=True))


@pytest.mark.parametrize(
    ("name", "scheduler", "steps", "eta"),
    [("Restart", "KL Optimal", [11, 2, 1], None), ("DPM2 a", "", [20], 1.5), ("DPM2 a", "Karras", [20], 1.5)],
)
def test_runs_that_are_not_what_they_seem(host, name, scheduler, steps, eta):
    request = {"path": "txt2img", "sampler": name, "schedulers": scheduler, "steps": steps, "eta": eta}
    if host.server.request("/sdapi/v1/schedulers")[0] != 200 and scheduler:
        pytest.skip("the host has no schedulers")
    for run in host.server.post("/e2e/runs", request):
        assert isinstance(run["made"], int)
        assert run["asked"] == run["made"]


def _show(title, answered, silent):
    """Print how many runs answered, those that did not and why, and how long it took."""
    print(f"\n{title}: {len(answered)} runs of {len({run['name'] for run in answered})} samplers")
    for name in dict.fromkeys(run["name"] for run in silent):
        of_name = [run for run in silent if run["name"] == name]
        why = next((run["reason"] for run in of_name if "reason" in run), "decides itself how often it evaluates")
        print(f"  {name}: not told in {len(of_name)} runs, {why}")
    for steps in STEPS:
        times = [(1000 * run["seconds"], run["name"]) for run in answered if run["steps"] == steps]
        if times:
            usual = statistics.median(time for time, _ in times)
            longest, name = max(times)
            print(f"  {steps} steps: {usual:.0f} ms, the longest {longest:.0f} ms ({name})")
