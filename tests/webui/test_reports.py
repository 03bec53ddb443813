"""What is told of passes and jobs, and when."""

import time

import pytest
from modules import sd_models, sd_samplers_common, shared

from deepcache_ext import SamplerKind
from deepcache_ext.webui.expected_run import ExpectedRun, ExpectedRuns
from tests.unit.unets import TaggedUNet, state_of
from tests.webui.support import ON, Processing, full_and_reused, job, load_checkpoint, origins, sample


def test_an_error_in_the_report_leaves_the_picture_and_the_unet_alone(controller, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("ours")

    unet = sd_models.model_data.sd_model.model.diffusion_model
    before = state_of(unet)
    monkeypatch.setattr("deepcache_ext.webui.running_pass.CallTimer.seconds", fail)
    assert origins(job(controller, Processing(), ON)) == [0, 0, 0, 3, 3, 3]
    assert state_of(unet) == before
    assert "DeepCache could not report a pass" in caplog.text


def test_no_speed_up_is_told_where_the_sampler_decides_how_often_it_evaluates(controller):
    job(controller, Processing(), ON, name="DPM adaptive", steps=20)
    (done,) = controller.last_report.passes
    assert done.statistics.reused > 0
    assert done.speed_up == 1
    assert "x" not in str(done).removeprefix("txt2img")


def test_what_a_pass_did_is_known_when_it_ends_whatever_becomes_of_its_job(controller, capsys):
    job(controller, Processing(), ON)
    failing = Processing()
    shared.state.begin()
    controller.begin_job(failing, [ON | {"interval": 2}])
    sample(failing)
    del failing  # its decoder raised
    assert full_and_reused(controller) == [("txt2img", 3, 3)]
    assert "DeepCache txt2img: 3 full and 3 reused evaluations in " in capsys.readouterr().out


def test_a_sampler_that_makes_no_evaluation_is_said_to_make_none(controller, capsys):
    def interrupt(_step):
        raise sd_samplers_common.InterruptedException

    job(controller, Processing(), ON, during=interrupt)
    assert controller.last_report.passes[0].reason == "the sampler made no evaluation"
    assert "DeepCache txt2img: not cached (the sampler made no evaluation)" in capsys.readouterr().out


class TimedUNet(TaggedUNet):
    """A TaggedUNet that takes its time where its deep blocks run, and a little for its rows."""

    def __init__(self, seconds):
        super().__init__()
        self.middle_block.register_forward_hook(lambda _block, args, _out: time.sleep(seconds * len(args[0])))


def test_seconds_are_those_of_the_wall_and_so_is_the_speed_up(controller):
    load_checkpoint(unet=TimedUNet(0.02))
    began = time.perf_counter()
    job(controller, Processing(), ON, during=lambda _step: time.sleep(0.02))
    took = time.perf_counter() - began
    (done,) = controller.last_report.passes
    assert done.unet_seconds < done.sampling_seconds <= took
    assert 1.2 < done.speed_up < 6 * 0.06 / done.sampling_seconds * 1.3
    assert f"{done.sampling_seconds:.1f} s, {done.speed_up:.2f}x as fast" in str(done)


@pytest.mark.parametrize(
    "told",
    [
        {"arguments": ON, "planned": 5},
        {"arguments": ON | {"interval": 6}},
        {"arguments": ON, "device": "privateuseone"},
    ],
    ids=["more evaluations than planned", "one full call", "a device that does not tell when it is done"],
)
def test_no_speed_up_is_told_where_it_may_be_none(controller, monkeypatch, told):
    load_checkpoint(unet=TimedUNet(0.005))
    if "planned" in told:
        expected = ExpectedRun(told["planned"], SamplerKind())
        monkeypatch.setattr(ExpectedRuns, "of", lambda *_, **__: expected)
    if "device" in told:
        monkeypatch.setattr("deepcache_ext.timer.TIMED", {})
    job(controller, Processing(), told["arguments"])
    (done,) = controller.last_report.passes
    assert done.statistics.reused > 0
    assert done.speed_up == 1
    assert "x" not in str(done).removeprefix("txt2img")
