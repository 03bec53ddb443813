"""Having the same decisions made again with all blocks run; see `replay/scripts/e2e_replay.py`."""

from pathlib import Path

HELPER = {"e2e-replay": [Path(__file__).parent / "replay/scripts"]}
"""The test-only extension that it needs, by name."""


def replayed(maker, cache, before=lambda: None, **request):
    """Return what a request makes, the same with all blocks run, and the passes of the first.

    `before` is called before each of the two: what was made before decides from where on some scripts draw noise.
    """
    before()
    skipped, passes = maker.make(cache=cache, **request), maker.last_run()["passes"]
    before()
    maker.server.post("/e2e/replay?on=true")
    try:
        whole = maker.make(cache=cache, **request)
    finally:
        maker.server.post("/e2e/replay?on=false")
    assert [_decisions(done) for done in maker.last_run()["passes"]] == [_decisions(done) for done in passes]
    return skipped, whole, passes


def _decisions(done):
    return done["plan"], done["statistics"]
