"""Every sentence that tells why something was not done: found in the source, and each made to be told."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from modules import sd_samplers_common, sd_unet

from deepcache_ext import SamplerKind, SamplingPass, Schedule, Settings, sampling, statistics
from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.features.rows import Rows
from deepcache_ext.planning import dry_run
from deepcache_ext.planning.dry_run import UnansweredError
from deepcache_ext.statistics import Statistics
from deepcache_ext.webui import reports
from deepcache_ext.webui.hosts import webui
from deepcache_ext.webui.hosts.dry_runs import Launched
from deepcache_ext.webui.options import CONTROLS, given, overridden, resolved
from deepcache_ext.webui.presets import left_alone
from tests.unit.unets import TaggedUNet
from tests.webui.support import NoUNet, Processing, job, load_checkpoint

LONGEST = 200
LONG = "x y\n" * 5000
BRIEF = 20
"""About how long what is filled in is."""
TOLD_ELSEWHERE = {"closeness.py", "compare.py", "comparison.py", "tune.py", "tuned.py", "tuned_runs.py"}
"""The files whose sentences are told by tests of their own; here they are only read."""
SOURCES = sorted(Path("deepcache_ext").rglob("*.py"))
TOLD_BY = re.compile(r"reason|shortfall|left_alone|engine|obstacle|error|explain|sentence", re.IGNORECASE)
"""The names of what tells a reason: functions that return one and attributes that hold one."""


def sentences():
    """Return the sentences in the source by place, each as a list of its parts between what is filled in."""
    found = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for told in told_in(tree):
            for node in texts_in(told):
                parts = [node.value] if isinstance(node, ast.Constant) else parts_of(node)
                if len(" ".join(parts).split()) > 3 and not re.match("[A-Z<]", parts[0]):
                    found[f"{path.as_posix()}:{node.lineno}"] = parts
    return found


def told_in(tree):
    """Return the nodes whose texts are told: what ValueErrors say, what such names get, what such functions return."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from node.exc.args
        elif isinstance(node, ast.Assign) and is_told_by(node.targets[0]):
            yield node.value
        elif isinstance(node, ast.FunctionDef) and TOLD_BY.search(node.name):
            yield from (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value)
        elif isinstance(node, ast.Call) and is_told_by(node.func):
            yield from node.args


def is_told_by(node):
    name = getattr(node, "attr", getattr(node, "id", ""))
    return name.isupper() or bool(TOLD_BY.search(name))


def texts_in(node):
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node
    elif not isinstance(node, ast.Call):
        for child in ast.iter_child_nodes(node):
            yield from texts_in(child)


def parts_of(node):
    """Return the texts between the values of an f-string, "" where two values meet."""
    parts = [""]
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts[-1] += value.value
        else:
            parts.append("")
    return parts


def of_error(make):
    with pytest.raises(ValueError, match=r".") as caught:
        make()
    return str(caught.value)


def of_dry_run(ask, *asked):
    with pytest.raises(UnansweredError) as caught:
        ask(*asked)
    return str(caught.value)


def of_dry_runs():
    """Yield why a run was not told beforehand; the log has it."""

    def past_the_denoiser(_denoiser, x, **_more):
        return unet(x[:, :2])

    def closure(**extra_params_kwargs):
        return lambda: extra_params_kwargs

    unet = TaggedUNet()
    yield of_dry_run(dry_run.ask, lambda _denoise, x: x)
    yield of_dry_run(dry_run.ask, _fails)
    sampler = sd_samplers_common.Sampler(past_the_denoiser)
    yield of_dry_run(Launched(sampler, print).ask, unet)
    yield of_dry_run(Launched(sampler, closure()).ask, unet)


def of_job(controller, *arguments, **options):
    job(controller, Processing(), *arguments, **options)
    report = controller.last_report
    return report.passes[0].reason if report.passes else report.reason


def asked(**values):
    return lambda: resolved(given([{"enabled": True} | values]), "SD1")


BAD = {name: LONG for name in CONTROLS if name != "enabled"}


def of_a_run(unet, evaluate, **options):
    with SamplingPass(unet, Settings(interval=4), **options) as run:
        for step in range(6):
            evaluate(run, step)
    return run.statistics.reason


def all_that_can_be_told(controller, monkeypatch):
    """Yield every sentence, with the longest values that can be in it."""
    for name, value in BAD.items():
        yield of_error(asked(**{name: value}))
        yield of_error(lambda name=name, value=value: overridden({"enabled": True}, {name: value}))
    yield of_error(lambda: given([LONG]))
    yield of_error(asked(steps=[LONG] * 99))
    yield of_error(asked(**{LONG: 1}))
    yield of_error(asked(intervall=1))
    yield of_error(asked(start=0.123456789, end=0.0123456789))
    yield of_error(asked(schedule="list"))
    yield of_error(asked(hires_interval=5, hires="own"))
    yield of_error(lambda: given([{"enabled": True}, LONG]))
    yield of_error(asked(hires_interval=5, schedule="uniform", hires="same"))
    yield of_error(lambda: given([True, *["Custom"] * 99]))
    yield of_error(lambda: Schedule(Settings(), 4, reuse=1.0))
    yield of_error(lambda: Schedule(Settings(), LONG))
    yield of_error(lambda: Schedule(Settings()).actions())
    yield of_error(lambda: SamplerKind(stages=LONG))
    yield Schedule(Settings(schedule="auto", speed_up=3.987654321, depth=0), 8).shortfall
    yield f"caching stopped at an error, RuntimeError: {sampling.SHORTENED}"
    yield of_error(lambda: NoiseLevels(torch.zeros(2, 2), "eps"))
    yield of_error(lambda: NoiseLevels(torch.zeros(2), LONG))
    yield of_error(lambda: Rows([LONG] * 20))
    yield of_error(lambda: SamplingPass(TaggedUNet(), Settings(), view=LONG))
    yield of_error(lambda: SamplingPass(TaggedUNet(), Settings(depth=9)))
    named = type("N" * 200, (NoUNet,), {})()
    yield of_error(lambda: SamplingPass(named, Settings()))
    for happened in ({"switched": 2}, {"missed": 1}, {}):
        yield reports.more_in_full(1, Statistics(**happened))
    for listened in (False, True):
        yield reports.left_uncorrected(Statistics(uncorrected=12, listened=listened))
    yield left_alone(4, 1.0, 4, decides_itself=False)
    yield left_alone(4, 0.1, 4, decides_itself=False)
    yield left_alone(20, 1.0, None, decides_itself=True)
    unet = TaggedUNet()
    unet.compile(backend="eager")
    yield of_error(lambda: SamplingPass(unet, Settings()).install())
    yield from of_dry_runs()
    yield from of_passes()
    yield from of_jobs(controller, monkeypatch)


def of_passes():
    def others(run, _step):
        run.start_evaluation(keys=["a", "b"])
        run.unet(torch.ones(1, 2, 4, 4))

    def switching(run, step):
        run.start_evaluation(keys=[step])
        run.unet(torch.ones(1, 2, 4, 4))

    def growing(run, step):
        run.start_evaluation()
        run.unet(torch.ones(1, 2, 4 + step, 4))

    def without_a_walk(run, _step):
        run.start_evaluation()
        with pytest.raises(RuntimeError):
            run.unet(torch.ones(1, 2, 4, 4))

    def displaced(run, step):
        run.start_evaluation()
        if step == 2:
            SamplingPass(run.unet, Settings()).install().remove()

    def taken_off(run, step):
        if step == 2:
            run.unet._forward_hooks.clear()
        run.start_evaluation()

    yield of_a_run(TaggedUNet(), others)
    yield of_a_run(TaggedUNet(), switching)
    yield of_a_run(TaggedUNet(), growing)
    broken = TaggedUNet()
    broken.input_blocks[0].register_forward_hook(_fails)
    yield of_a_run(broken, without_a_walk)
    yield of_a_run(TaggedUNet(), displaced)
    yield of_a_run(TaggedUNet(), taken_off)


def _fails(*_, **__):
    raise RuntimeError(LONG)


def of_jobs(controller, monkeypatch):
    on = {"enabled": True, "interval": 2, "depth": 1}
    yield of_job(controller, on | {"hires_depth": LONG})
    with monkeypatch.context() as patch:
        patch.setattr("deepcache_ext.features.store.RowStore.keep", _fails)
        yield of_job(controller, on)
    with monkeypatch.context() as patch:
        patch.setattr("deepcache_ext.webui.passes.RunningPass", _fails)
        yield of_job(controller, on)
    with monkeypatch.context() as patch:
        patch.setattr(sd_unet, "current_unet", SimpleNamespace(option=SimpleNamespace(label=LONG)))
        yield of_job(controller, on)
        yield webui.engine()
    p = Processing()
    p.is_hr_pass = True
    job(controller, p, on | {"hires": "off"})
    yield controller.last_report.passes[0].reason

    def interrupted(_step):
        raise sd_samplers_common.InterruptedException

    yield of_job(controller, on, during=interrupted)

    def changed(step):
        if step == 1:
            load_checkpoint("another", type("N" * 200, (NoUNet,), {})())

    p = Processing()
    job(controller, p, on, during=changed)
    yield controller.last_report.passes[0].reason
    yield p.extra_generation_params[reports.NOT_USED]


def test_every_reason_is_one_plain_sentence_and_every_sentence_in_the_source_is_told(controller, monkeypatch):
    told = [*all_that_can_be_told(controller, monkeypatch)]
    assert [number for number, sentence in enumerate(told) if not sentence] == []
    for sentence in told:
        check_plain(sentence)
    missing = {
        place: parts
        for place, parts in sentences().items()
        if Path(place.split(":")[0]).name not in TOLD_ELSEWHERE
        and not any(re.search(".*".join(map(re.escape, parts)), sentence) for sentence in told)
    }
    assert missing == {}


@pytest.mark.parametrize(("place", "parts"), sentences().items(), ids=[*sentences()])
def test_every_sentence_in_the_source_is_plain_whatever_is_filled_in(place, parts):  # noqa: ARG001 - names the test
    check_plain(("x" * BRIEF).join(parts))


def check_plain(sentence):
    """Assert that a reason is one sentence without its full stop, no longer than a reader takes in at once."""
    assert len(sentence) <= LONGEST, sentence
    assert sentence == sentence.strip(" .,;:\n") or sentence.endswith(("...", "...)")), sentence
    assert not re.search(r"\n|\(\)|\b1 (steps|evaluations)\b|  |\. [A-Z]", sentence), sentence


def test_the_search_finds_sentences_of_every_kind():
    found = [" ".join(parts) for parts in sentences().values()]
    for wanted in (statistics.OTHERS, reports.NO_EVALUATION, "switched off for this pass"):
        assert wanted in found
    assert any("is no setting of DeepCache" in text for text in found)
    assert any("there is little to gain" in text for text in found)
    assert len(found) > 20
