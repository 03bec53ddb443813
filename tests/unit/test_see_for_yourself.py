"""The benches that ask a running WebUI and that look at tuned plans."""

import pytest

from bench import tuning, webui_closeness
from bench.parts.report import read_csv, write_csv
from deepcache_ext.webui.tuning import questions
from demo.tiny_model import TinyModel


def test_tuned_plans_are_looked_at_on_fresh_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(questions, "PRESETS", {"Fast": questions.PRESETS["Fast"]})
    results = tuning.measure(TinyModel("avatars"), "Euler", 8, 3.0, tunings=1, pictures=2)
    (found,) = results
    assert (found.preset, found.tunings, found.pictures) == ("Fast", 1, 2)
    assert (found.tuned == found.usual) == (not found.changed)
    write_csv(results, tmp_path / "tuning.csv")
    assert [one.case for one in read_csv(tuning.Result, tmp_path / "tuning.csv")] == [found.case]
    assert tuning.means([found]).splitlines()[-1].startswith("| all | ")


def row(label, steps, psnr, **more):
    return {"label": label, "steps": steps, "unet_seconds": 1.0, "seconds": 2.0, "psnr": psnr, "ssim": psnr} | more


class Asked:
    """A WebUI that notes what it is asked."""

    def __init__(self, note=""):
        self.bodies = []
        self.note = note

    def ask(self, path, body=None):
        if body is not None:
            self.bodies.append((path, body))
            return {}
        fast = row("Fast", 20, [20.0, 30.0], reason="", unet_seconds=0.5)
        fast["fewer_steps"] = row("7 steps", 7, [10.0, 20.0], reason="", unet_seconds=0.4)
        full = row("full", 20, [100.0, 100.0], reason="")
        return {"comparison": {"full": full, "choices": [fast], "note": self.note}}


def test_figures_are_of_all_prompts():
    webui = Asked()
    full, fast, fewer = webui_closeness.measure(webui, {"seed": 1}, ["a", "b"], ["Fast"])
    assert [body["prompt"] for _, body in webui.bodies] == ["a", "b"]
    assert webui.bodies[0][1]["script_args"] == [["Fast"], True, False]
    assert full.cells(full) == ["full", "20", "0.50", "1.00", "", "", ""]
    assert fast.cells(full) == ["Fast", "20", "0.25", "1.00", "2.00x", "25.0 (20.0)", "25.000 (20.000)"]
    assert fewer.cells(full)[:5] == ["fewer steps", "7", "0.20", "1.00", "2.50x"]


def test_a_comparison_that_ended_early_is_no_measurement():
    with pytest.raises(webui_closeness.AnswerError, match="ended before Fast"):
        webui_closeness.measure(Asked("ended before Fast was finished"), {}, ["a"], ["Fast"])
