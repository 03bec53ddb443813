"""What the script file registers with the host, and what the API tells."""

from types import ModuleType, SimpleNamespace

import pytest
from modules import script_callbacks, scripts

from deepcache_ext.webui.options import CONTROLS
from tests.webui.support import Processing, job, load_checkpoint, load_script


@pytest.fixture
def module():
    load_checkpoint()
    yield load_script()
    for callback in script_callbacks.callbacks["script_unloaded"]:
        callback()


class AxisOption:
    def __init__(self, label, type, apply, choices=None):
        self.label, self.type, self.apply, self.choices = label, type, apply, choices


@pytest.fixture
def xyz(monkeypatch):
    found = ModuleType("xyz_grid.py")
    found.axis_options = []
    found.AxisOption = AxisOption
    owner = type("XYZ", (), {"__module__": "xyz_grid.py"})
    monkeypatch.setattr(scripts, "scripts_data", [SimpleNamespace(script_class=owner, module=found)])
    return found


def test_there_is_an_axis_for_every_setting_once(module, xyz):
    for _ in range(3):
        script_callbacks.callbacks["before_ui"][0]()
    assert [option.label for option in xyz.axis_options] == [f"[DeepCache] {c.label}" for c in CONTROLS.values()]
    p = Processing()
    by_label = {option.label: option for option in xyz.axis_options}
    by_label["[DeepCache] Interval"].apply(p, 2, [2, 3])
    by_label["[DeepCache] Enable DeepCache"].apply(p, "True", ["True", "False"])
    job(module.controller, p, False)
    assert p.extra_generation_params == {
        "DeepCache enabled": True,
        "DeepCache preset": "Custom",
        "DeepCache interval": 2,
        "DeepCache correction": "on",
    }
    assert by_label["[DeepCache] Schedule"].choices() == ["auto", "uniform", "non-uniform", "list"]
    assert by_label["[DeepCache] Inner passes"].choices() == ["True", "False"]
    assert (by_label["[DeepCache] Depth"].type, by_label["[DeepCache] Start"].type) == (int, float)


def test_an_axis_leaves_the_other_cells_alone(module, xyz):
    script_callbacks.callbacks["before_ui"][0]()
    axis = next(option for option in xyz.axis_options if option.label == "[DeepCache] Depth")
    first, second = Processing(), Processing()
    axis.apply(first, 3, [3])
    axis.apply(second, 2, [2])
    module.controller.begin_job(first, [False])
    assert first.extra_generation_params["DeepCache depth"] == 3
    module.controller.begin_job(second, [False])
    assert second.extra_generation_params["DeepCache depth"] == 2


class HostApi:
    def __init__(self):
        self.routes = {}

    def add_api_route(self, path, endpoint, **_options):
        self.routes[path] = endpoint

    def txt2img(self):
        """A route of the host's own."""


def app_of(api):
    return SimpleNamespace(routes=[SimpleNamespace(endpoint=print), SimpleNamespace(endpoint=api.txt2img)])


def test_the_routes_are_added_by_the_hosts_own_api(module):
    api = HostApi()
    script_callbacks.callbacks["app_started"][0](None, app_of(api))
    assert set(api.routes) == {"/deepcache/v1/schema", "/deepcache/v1/last-run", "/deepcache/v1/tune"}
    assert api.routes["/deepcache/v1/last-run"]() == {"passes": [], "reason": "no job with DeepCache yet"}
    job(module.controller, Processing(), {"enabled": True, "interval": 3})
    (done,) = api.routes["/deepcache/v1/last-run"]()["passes"]
    assert (done["name"], done["statistics"]["full"], done["statistics"]["reused"]) == ("txt2img", 2, 4)


@pytest.mark.usefixtures("module")
def test_without_the_hosts_api_there_are_no_routes():
    script_callbacks.callbacks["app_started"][0](None, SimpleNamespace(routes=[]))


@pytest.mark.usefixtures("module")
def test_the_schema_describes_every_control():
    api = HostApi()
    script_callbacks.callbacks["app_started"][0](None, app_of(api))
    schema = api.routes["/deepcache/v1/schema"]()
    assert list(schema["properties"]) == list(CONTROLS)
    assert schema["properties"]["interval"]["minimum"] == 1
    assert schema["properties"]["interval"]["maximum"] == 50
    assert schema["properties"]["schedule"]["enum"] == ["auto", "uniform", "non-uniform", "list"]
    for name, control in CONTROLS.items():
        assert control.read(schema["properties"][name]["default"]) == control.default
