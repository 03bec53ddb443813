"""What is read of a job that the host makes again."""

from types import SimpleNamespace

import pytest
from modules import shared

from deepcache_ext.webui.host_jobs import copied, pictures_of


@pytest.fixture(autouse=True)
def state(monkeypatch):
    for name in ("interrupted", "skipped"):
        monkeypatch.setattr(shared.state, name, False, raising=False)
    for name in ("return_mask", "return_mask_composite"):
        monkeypatch.setattr(shared.opts, name, False, raising=False)


def made(*images, first=0):
    return SimpleNamespace(images=list(images), index_of_first_image=first)


def job(**others):
    return SimpleNamespace(n_iter=1, batch_size=2, **others)


def test_pictures_are_without_grid_and_extras():
    assert pictures_of(made("grid", "one", "two", "extra", first=1), job()) == ["one", "two"]


def test_pictures_are_without_masks(monkeypatch):
    monkeypatch.setattr(shared.opts, "return_mask", True)
    assert pictures_of(made("one", "mask", "two", "mask"), job(mask_for_overlay="mask")) == ["one", "two"]
    assert pictures_of(made("one", "two"), job(mask_for_overlay=None)) == ["one", "two"]


def test_there_are_none_of_a_job_that_did_not_end(monkeypatch):
    assert pictures_of(made("one"), job()) == []
    monkeypatch.setattr(shared.state, "interrupted", True)
    assert pictures_of(made("one", "two"), job()) == []


def test_a_copy_may_be_changed():
    p = SimpleNamespace(styles=["a"], override_settings=None, extra_generation_params={"b": 1})
    job = copied(p)
    job.styles.append("c")
    job.override_settings["d"] = job.extra_generation_params["e"] = 2
    assert (p.styles, p.override_settings, p.extra_generation_params) == (["a"], None, {"b": 1})
