"""The real WebUIs that the environment names, their checkpoints, and what they make without the extension."""

import os

import pytest

from tests.e2e.hosts import named
from tests.e2e.pictures import EVERY_THIRD, Maker, closeness, plain_requests, same
from tests.e2e.server import serving
from tests.e2e.works_with import Outcomes


def pytest_configure(config):
    if os.environ.get("WORKS_WITH"):
        config.pluginmanager.register(Outcomes(os.environ["WORKS_WITH"]))


@pytest.fixture(scope="session", params=named(), ids=lambda kind: kind.name)
def webui(request):
    """Return the kind of host; each that the environment names in turn."""
    assert request.param.folder
    return request.param


@pytest.fixture(scope="session")
def a1111(webui):
    """Ask for AUTOMATIC1111's WebUI, whose flags, engines, hypernetworks or extensions the test is about."""
    if webui.forge:
        pytest.skip(f"{webui.name} has no such flags, engines, hypernetworks and extensions as A1111")


@pytest.fixture(scope="session")
def plain(webui, tmp_path_factory):
    """Return the pictures of a host without the extension, by the name of the request."""
    with serving(webui, tmp_path_factory.mktemp("plain"), extensions={}) as server:
        maker = Maker(server)
        return {name: maker.make(**request) for name, request in plain_requests(maker).items()}


@pytest.fixture(scope="session")
def server(webui, tmp_path_factory, plain):
    """Run the host with the extension, after the plain one has stopped."""
    assert plain
    with serving(webui, tmp_path_factory.mktemp("cached")) as running:
        yield running


@pytest.fixture(scope="session")
def maker(server):
    return Maker(server)


@pytest.fixture(scope="module")
def usual(maker):
    """Return how close the plain picture is."""
    return closeness(maker)[0]


@pytest.fixture
def alone(maker):
    """Return the cached picture that nothing went before."""
    return maker.make(cache=EVERY_THIRD)


@pytest.fixture
def _nothing_is_left(maker, alone):
    yield
    assert "deepcache_ext" not in " ".join(maker.state()["hooks"])
    assert same(maker.make(cache=EVERY_THIRD), alone)
    assert maker.counts() == [("txt2img", 3, 5)]


@pytest.fixture(autouse=True)
def _clean(request):
    """Start every test with no counts and no wishes left."""
    if "maker" in request.fixturenames:
        maker = request.getfixturevalue("maker")
        maker.server.post("/e2e/want")
        maker.server.get("/e2e/state")
