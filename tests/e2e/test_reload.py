"""Reload UI leaves one of everything."""

import time

from deepcache_ext.webui.options import CONTROLS


def test_after_three_reloads_there_is_one_of_everything(maker):
    before = maker.state()
    for _ in range(3):
        maker.server.post("/e2e/reload")
        time.sleep(3)
        for _ in range(100):
            try:
                if maker.server.request("/e2e/want", method="POST")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.5)
    maker.make(cache={"interval": 3})
    assert maker.counts() == [("txt2img", 3, 5)]
    after = maker.state()
    assert [axis for axis in after["axes"] if "DeepCache" in axis] == [
        f"[DeepCache] {c.label}" for c in CONTROLS.values()
    ]
    assert after["callbacks"] == before["callbacks"]
    assert len(after["callbacks"]) == len(set(after["callbacks"]))
    assert "deepcache_ext" not in " ".join(after["hooks"])
