"""What other extensions do in mid-run, on the stand-in."""

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
