"""Wires the host's hooks to `deepcache_ext.webui`."""

from modules import script_callbacks, scripts

from deepcache_ext.webui import api, infotext, xyz
from deepcache_ext.webui.comparing import compare
from deepcache_ext.webui.comparing.compare_panel import ComparePanel
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.options import INFOTEXT_KEYS
from deepcache_ext.webui.panel import FINISHED, HOST_COMPONENTS, Panel
from deepcache_ext.webui.passes import Controller
from deepcache_ext.webui.tuning import tune
from deepcache_ext.webui.tuning.tune_panel import LOGS, TunePanel
from deepcache_ext.webui.tuning.tuned import TunedPlans

controller = Controller(TunedPlans(host.data_folder() / "deepcache-plans.json"))
comparer = compare.Comparer(controller)
tuner = tune.Tuner(controller)
tabs = {}
"""The panel and the host's components of each tab, by whether it is img2img's."""


class DeepCacheScript(scripts.Script):
    """The accordion in a tab, and the jobs that start there."""

    section = "accordions"
    create_group = False

    def __init__(self) -> None:
        super().__init__()
        self.panel = None
        self.host_components = {}
        for elem_id in HOST_COMPONENTS:
            self.on_after_component(self.remember, elem_id=elem_id)
        for elem_id in FINISHED:
            self.on_after_component(self.connect, elem_id=elem_id)

    def title(self):
        return "DeepCache"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        self.panel = Panel(controller, self.elem_id, img2img=is_img2img)
        self.infotext_fields = infotext.fields(self.panel.inputs)
        self.paste_field_names = list(INFOTEXT_KEYS)
        return self.panel.inputs

    def remember(self, made):
        """Note a component of the host's that the plan follows."""
        self.host_components[HOST_COMPONENTS[made.component.elem_id]] = made.component

    def connect(self, made):
        """Connect the panel with the rest of the tab, whose last component has been made."""
        self.panel.follow(self.host_components, made.component)
        tabs[self.is_img2img] = self.panel, self.host_components

    def process(self, p, *args):
        controller.begin_job(p, args)

    def postprocess(self, p, processed, *args):
        controller.end_job(p)


class DeepCacheComparison(scripts.Script):
    """The comparison in a tab's list of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.panel = None
        for elem_id in FINISHED:
            self.on_after_component(self.connect, elem_id=elem_id)

    def title(self):
        return compare.TITLE

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        self.panel = ComparePanel(comparer, self.elem_id)
        return self.panel.inputs

    def connect(self, made):
        """Connect the table with the rest of the tab, whose last component has been made."""
        if self.is_img2img in tabs:
            panel, components = tabs[self.is_img2img]
            self.panel.connect(panel.components, components, made.component)

    def run(self, p, *args):
        return comparer.run(p, args)


class DeepCacheTuning(scripts.Script):
    """Tuning in a tab's list of scripts, which the panel's button chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.panel = None
        self.script_list = None
        self.log = None
        self.on_after_component(self.remember, elem_id="script_list")
        for elem_id in LOGS:
            self.on_after_component(self.remember_log, elem_id=elem_id)
        for elem_id in FINISHED:
            self.on_after_component(self.connect, elem_id=elem_id)

    def title(self):
        return tune.TITLE

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        self.panel = TunePanel(tuner)
        return []

    def remember(self, made):
        """Note the host's list of scripts."""
        self.script_list = made.component

    def remember_log(self, made):
        """Note where the host tells that a generation has failed."""
        self.log = made.component

    def connect(self, made):
        """Connect the panel's buttons with the rest of the tab, whose last component has been made."""
        if self.is_img2img in tabs and self.script_list is not None:
            tab = "img2img" if self.is_img2img else "txt2img"
            panel, _ = tabs[self.is_img2img]
            self.panel.connect(panel, self.script_list, f"{tab}_generate", made.component, self.log)

    def run(self, p, *args):
        return tuner.run(p)


controller.install()
script_callbacks.on_cfg_denoiser(controller.start_evaluation)
script_callbacks.on_cfg_denoiser(comparer.stopwatch.start_evaluation)
script_callbacks.on_script_unloaded(controller.remove)
script_callbacks.on_before_ui(lambda: xyz.add_axes(scripts.scripts_data))
script_callbacks.on_app_started(lambda _demo, app: api.add_routes(app, controller, comparer, tuner))
