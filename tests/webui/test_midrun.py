"""What other extensions do in mid-run, on the stand-in."""

import sys
from types import SimpleNamespace

import pytest
from modules import script_callbacks, shared

from tests.webui.support import ON, Processing, job, origins


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("all_steps", [True, False])
@pytest.mark.parametrize(("minimum", "by"), [(0.5, 0.1), (2.0, 10.0)])
def test_whether_unconds_are_left_out_is_decided_by_the_hosts_own_noise_levels(
    controller, monkeypatch, minimum, by, all_steps, first
):
    def bend(params):
        params.sigma *= by

    monkeypatch.setattr(shared.opts, "s_min_uncond_all", all_steps)
    usual = origins(job(controller, Processing(), ON, steps=12, s_min_uncond=minimum))
    (done,) = controller.last_report.passes
    script_callbacks.callbacks["cfg_denoiser"].insert(0 if first else 1, bend)
    assert origins(job(controller, Processing(), ON, steps=12, s_min_uncond=minimum)) == usual
    (bent,) = controller.last_report.passes
    assert (bent.statistics, bent.reason) == (done.statistics, done.reason)
    assert bent.statistics.reused > 0


def lora(**values):
    usual = {"name": "a", "te_multiplier": 1.0, "unet_multiplier": 1.0, "dyn_dim": None}
    return SimpleNamespace(**usual | values)


def hypernetwork(multiplier):
    layers = {768: (SimpleNamespace(multiplier=multiplier), SimpleNamespace(multiplier=multiplier))}
    return SimpleNamespace(name="h", layers=layers)


CHANGES = {
    "LoRA, U-Net": ([lora()], [lora(unet_multiplier=0.5)]),
    "LoRA, text encoder": ([lora()], [lora(te_multiplier=0.5)]),
    "LoRA, dimension": ([lora()], [lora(dyn_dim=4)]),
    "another LoRA": ([lora()], [lora(name="b")]),
    "a LoRA more": ([lora()], [lora(), lora(name="b")]),
    "no LoRA": ([lora()], []),
    "hypernetwork": ([hypernetwork(1.0)], [hypernetwork(0.5)]),
    "no hypernetwork": ([hypernetwork(1.0)], []),
}


@pytest.mark.usefixtures("at_one_time")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_a_script_changes_in_mid_run_make_the_evaluation_full(controller, monkeypatch, change, first):
    before, after = CHANGES[change]
    networks = SimpleNamespace(loaded_networks=[] if "hyper" in change else before)
    monkeypatch.setitem(sys.modules, "networks", networks)
    monkeypatch.setattr(shared, "loaded_hypernetworks", before if "hyper" in change else [], raising=False)

    def switch(params):
        if params.denoiser.step == 4:
            if "hyper" in change:
                shared.loaded_hypernetworks = after
            else:
                networks.loaded_networks = after

    script_callbacks.callbacks["cfg_denoiser"].insert(0 if first else 1, switch)
    asked = {"enabled": True, "interval": 12, "depth": 1}
    assert origins(job(controller, Processing(), asked, steps=12)) == [0] * 4 + [4] + [5] * 7
    (done,) = controller.last_report.passes
    assert (done.in_full, done.statistics.switched) == ("0, 4-5", 2)
    assert (
        done.reason == "2 evaluations more than planned made in full, as prompts, unconds or the network changed there"
    )


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("units", [1, 2])
def test_a_control_that_begins_or_ends_on_a_reuse_makes_the_evaluation_full(controller, first, units):
    stopped = [SimpleNamespace(guidance_stopped=False) for _ in range(units)]
    p = Processing()
    network = SimpleNamespace(latest_network=SimpleNamespace(control_params=stopped))
    p.scripts = SimpleNamespace(alwayson_scripts=[SimpleNamespace(), network])

    def guidance(params):
        stopped[-1].guidance_stopped = not 3 <= params.denoiser.step < 8

    script_callbacks.callbacks["cfg_denoiser"].insert(0 if first else 1, guidance)
    asked = {"enabled": True, "interval": 12, "depth": 1, "forecast": "off"}
    assert origins(job(controller, p, asked, steps=12)) == [0] * 3 + [3] * 5 + [8] * 4
