"""Reload UI leaves one of everything."""

from deepcache_ext.webui.options import CONTROLS


def test_after_three_reloads_there_is_one_of_everything(maker):
    before = maker.state()
    for reloads in range(1, 4):
        maker.server.post("/e2e/reload")
        maker.server.wait_for_start(1 + reloads)
    maker.make(cache={"interval": 3})
    assert maker.counts() == [("txt2img", 3, 5)]
    after = maker.state()
    assert [axis for axis in after["axes"] if "DeepCache" in axis] == [
        f"[DeepCache] {c.label}" for c in CONTROLS.values()
    ]
    assert after["callbacks"] == before["callbacks"]
    assert len(after["callbacks"]) == len(set(after["callbacks"]))
    assert "deepcache_ext" not in " ".join(after["hooks"])
