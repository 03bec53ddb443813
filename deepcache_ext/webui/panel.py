"""The accordion in txt2img and img2img: the controls, the picture of the plan and what the last job did."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.context import Context
from modules.ui_components import InputAccordion

from deepcache_ext.network.unet import check_for_unet
from deepcache_ext.planning.settings import Choice, Number, WholeNumber, accepted
from deepcache_ext.sentence import counted
from deepcache_ext.webui import plan
from deepcache_ext.webui.family import Family
from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.options import (
    CONTROLS,
    SCHEDULES,
    Control,
    Flag,
    Options,
    given,
    has_effect,
    resolved,
    written,
)
from deepcache_ext.webui.passes import Controller
from deepcache_ext.webui.presets import BALANCED, CUSTOM, NO_CLOSER, PRESETS, for_run, left_alone
from deepcache_ext.webui.reports import JobReport
from deepcache_ext.webui.tuning.tuned import Plan
from deepcache_ext.webui.tuning.tuned_runs import key_of, plan_for

HOST_COMPONENTS = {
    "txt2img_steps": "steps",
    "txt2img_sampling": "sampler",
    "txt2img_scheduler": "scheduler",
    "txt2img_hr-checkbox": "hires",
    "txt2img_hires_steps": "hires_steps",
    "hr_sampler": "hires_sampler",
    "hr_scheduler": "hires_scheduler",
    "img2img_steps": "steps",
    "img2img_sampling": "sampler",
    "img2img_scheduler": "scheduler",
    "txt2img_denoising_strength": "denoising",
    "img2img_denoising_strength": "denoising",
}
"""The host's components that the plan follows, by element id, and what the plan calls them."""
FINISHED = ("generation_info_txt2img", "generation_info_img2img")
"""The host's components that change when a generation has finished; the last that a tab makes."""

_NUMBERS = ("steps", "hires_steps", "denoising")
"""Those of them that are a number; None while the user has emptied the field."""
_SAME_SAMPLER, _SAME_SCHEDULER = "Use same sampler", "Use same scheduler"
_SETS = ("schedule", "speed_up", "depth")
"""The controls that a preset sets."""
_CUSTOM = [*_SETS, *(name for name in SCHEDULES if name not in _SETS and not name.startswith("hires_"))]
"""The controls that are there with the preset "Custom" only."""
_ADVANCED = [name for name in CONTROLS if name not in {"enabled", "preset", *_CUSTOM}]
"""The controls that go with every preset, and that few people need."""
_DEPENDENT = [name for name in CONTROLS if name in SCHEDULES or name.startswith("hires_")]
"""The controls that matter with some schedules, or with a hires pass, only."""
_SETTLING = list(dict.fromkeys([*_SETS, *_DEPENDENT]))
"""The controls that others change."""


class Panel:
    """The controls of one tab."""

    def __init__(self, controller: Controller, elem_id: Callable[[str], str], *, img2img: bool) -> None:
        self._controller = controller
        self._elem_id = elem_id
        self._img2img = img2img
        self.components = self._build()

    @property
    def inputs(self) -> list[Any]:
        """The controls, in the order of the API's positional arguments."""
        return list(self.components.values())

    def follow(self, components: Mapping[str, Any], finished: Any) -> None:
        """Redraw the plan with the host's `components`, and tell what happened when `finished` changes.

        When the page is loaded, everything is as the values want that the user has saved as the host's defaults.
        """
        names = list(components)
        inputs = [*self.inputs, *components.values()]

        def redraw(*values: Any) -> str:
            count = len(self.components)
            return self._plan(values[:count], dict(zip(names, values[count:], strict=True)))

        def settle(*values: Any) -> list[Any]:
            settled, updates = _settled(dict(zip(self.components, values, strict=False)))
            return [*updates, redraw(*settled.values(), *values[len(settled) :])]

        for component in inputs:
            component.change(redraw, inputs, self._plan_html, show_progress=False, queue=False)
            if isinstance(component, gr.Slider):  # gradio may drop the last of several changes
                component.release(redraw, inputs, self._plan_html, show_progress=False, queue=False)
            if isinstance(component, gr.Textbox):
                component.blur(redraw, inputs, self._plan_html, show_progress=False, queue=False)
        self.tuned.change(redraw, inputs, self._plan_html, show_progress=False, queue=False)
        enabled = self.components["enabled"]
        finished.change(self._report, [enabled], self._report_html, show_progress=False, queue=False)
        finished.change(redraw, inputs, self._plan_html, show_progress=False, queue=False)
        settling = [*(self.components[name] for name in _SETTLING), self._custom, self._advanced, self._plan_html]
        Context.root_block.load(settle, inputs, settling, show_progress=False, queue=False)

    def _build(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        enabled = CONTROLS["enabled"]
        with InputAccordion(enabled.default, label=enabled.label, elem_id=self._elem_id("enabled")) as accordion:
            made["enabled"] = accordion
            made["preset"] = self._component("preset")
            with gr.Row():
                self.tune = gr.Button("Tune for this checkpoint", size="sm", elem_id=self._elem_id("tune"))
                self.forget = gr.Button("Forget what was tuned", size="sm", elem_id=self._elem_id("forget"))
            self.tuned = gr.HTML(elem_id=self._elem_id("tuned"))
            self._plan_html = gr.HTML(elem_id=self._elem_id("plan"))
            self._report_html = gr.HTML(elem_id=self._elem_id("report"))
            with gr.Column(visible=CONTROLS["preset"].default == CUSTOM, elem_id=self._elem_id("custom")) as custom:
                made |= {name: self._component(name) for name in _CUSTOM}
            with gr.Accordion("Advanced", open=False, elem_id=self._elem_id("advanced")) as advanced:
                made |= {name: self._component(name) for name in _ADVANCED}
        self._custom, self._advanced = custom, advanced
        self._connect(made, custom, advanced)
        return {name: made[name] for name in CONTROLS}

    def _connect(self, components: Mapping[str, Any], custom: Any, advanced: Any) -> None:
        quick: dict[str, Any] = {"show_progress": False, "queue": False}
        preset = components["preset"]
        sets = [components[name] for name in _SETS]
        preset.input(_preset_values, [preset, *sets], sets, **quick)
        schedule, depth = components["schedule"], components["depth"]
        for component in (preset, schedule):
            component.change(_shows_custom, [preset, schedule], custom, **quick)
        components["enabled"].change(_values_when_enabled, [preset, *sets], sets, **quick)
        schedule.input(_depth_with, [schedule, depth], depth, **quick)
        chosen = [components["schedule"], components["hires"]]
        dependent = [components[name] for name in _DEPENDENT]
        for component in chosen:
            component.change(_visibility, chosen, dependent, **quick)
        others = [components[name] for name in _ADVANCED]
        for component in others:
            component.change(_opened_by, others, advanced, **quick)

    def _component(self, name: str) -> Any:
        control = CONTROLS[name]
        visible = has_effect(name, CONTROLS["schedule"].default, CONTROLS["hires"].default)
        visible = visible and not (self._img2img and name == "hires")
        return _component(control, elem_id=self._elem_id(name), visible=visible)

    def _plan(self, values: Sequence[Any], tab: Mapping[str, Any]) -> str:
        if not values[0] or any(tab.get(name, 0) is None for name in _NUMBERS):
            return ""
        if other := host.makes_without_samplers():
            return f"<p>DeepCache will not be used: {other} makes the pictures.</p>"
        loaded = host.loaded()
        try:
            if loaded.unet is not None:
                check_for_unet(loaded.unet)
            options = resolved(given(values), loaded.family)
            depths = WholeNumber(0, plan.depths(loaded.family))
            for name, settings in (("depth", options.base), ("hires depth", options.hires)):
                if settings is not None:
                    accepted(name, depths, settings.depth)
            return "".join(self._passes(options, tab, loaded.family))
        except ValueError as error:
            return f"<p>DeepCache will not be used: {html.escape(str(error))}.</p>"

    def _passes(self, options: Options, tab: Mapping[str, Any], family: Family) -> Iterator[str]:
        steps, sampler, denoising = int(tab["steps"]), str(tab["sampler"]), float(tab["denoising"])
        if self._img2img:
            steps = host.samplers.img2img_steps(steps, denoising)
        name, scheduler = "img2img" if self._img2img else "txt2img", str(tab.get("scheduler", ""))
        tuned = None
        if self._controller.plans is not None:
            key = key_of(sampler, scheduler, steps, img2img=self._img2img)
            tuned = plan_for(options, key, self._controller.plans, family)
            if self._controller.plans.problem:
                yield f"<p>{html.escape(self._controller.plans.problem)}.</p>"
        yield _picture(name, options, sampler, scheduler, steps, denoising, family, tuned)
        if tab.get("hires"):
            second = str(tab["hires_sampler"])
            sampler = sampler if second == _SAME_SAMPLER else second
            second = str(tab.get("hires_scheduler", _SAME_SCHEDULER))
            scheduler = scheduler if second == _SAME_SCHEDULER else second
            yield _picture("hires", options, sampler, scheduler, int(tab["hires_steps"]) or steps, denoising, family)

    def _report(self, enabled: bool) -> str:
        report = self._controller.last_report
        return report_html(report) if enabled and report is not None else ""


def _picture(
    name: str,
    options: Options,
    sampler: str,
    scheduler: str,
    steps: int,
    denoising: float,
    family: Family,
    tuned: Plan | None = None,
) -> str:
    evaluations = host.samplers.evaluations(sampler, steps, img2img=name != "txt2img", scheduler=scheduler)
    settings = options.hires if name == "hires" else options.base
    itself = host.samplers.decides_itself(sampler)
    note = left_alone(steps, 1.0 if name == "txt2img" else denoising, evaluations, decides_itself=itself)
    presets = settings is not None and options.are_presets(settings)
    if note and presets:
        settings = None
    kind = host.samplers.kind(sampler)
    if settings is not None:
        settings = for_run(settings, options.values["preset"], kind)
    few = NO_CLOSER.get(host.samplers.without_scheduler(sampler), ())
    no_closer = sampler if presets and options.values["preset"] in few else ""
    if tuned is not None and settings is not None:
        settings, note = tuned.settings, "tuned for this checkpoint"
        no_closer = "" if tuned.is_worth_it else sampler
    return plan.picture(name, settings, steps, evaluations, family, sampler=kind, note=note, no_closer=no_closer)


def report_html(report: JobReport) -> str:
    """Return what a job did, a line for each pass, or the reason why nothing was cached."""
    if not report.passes:
        return f"<p>DeepCache was {html.escape(str(report))}.</p>"
    lines = []
    for done in report.passes:
        told = [f"{counted(done.statistics.full, 'evaluation')} in full", f"{done.statistics.reused} reused"]
        if done.statistics.full + done.statistics.reused:
            told.append(done.took)
        line = f"{done.name}, {done.sampler}: {', '.join(told)}" + (f" ({done.reason})" if done.reason else "")
        lines.append(f"<p>{html.escape(line)}</p>")
    return f'<div class="deepcache-report"><p><b>Last generation</b></p>{"".join(lines)}</div>'


def _component(control: Control, *, elem_id: str, visible: bool) -> Any:
    common: dict[str, Any] = {
        "value": written(control.default),
        "label": control.label,
        "info": control.help,
        "elem_id": elem_id,
        "visible": visible,
    }
    kind = control.kind
    if isinstance(kind, Choice):
        return gr.Radio(choices=list(kind.options), **common)
    if isinstance(kind, Flag):
        return gr.Checkbox(**common)
    if isinstance(kind, (WholeNumber, Number)):
        step = 1 if isinstance(kind, WholeNumber) else 0.05
        return gr.Slider(minimum=kind.minimum, maximum=kind.maximum, step=step, **common)
    return gr.Textbox(**common)


def _preset_values(preset: str, schedule: str, speed_up: float, depth: int) -> list[Any]:
    """Return the values that a preset gives the controls for the loaded checkpoint, with its range of depth."""
    family = host.loaded().family
    if preset in PRESETS:
        schedule, speed_up, depth = (PRESETS[preset][family][name] for name in _SETS)
    most = plan.depths(family)
    return [gr.update(value=schedule), gr.update(value=speed_up), gr.update(value=min(depth, most), maximum=most)]


def _values_when_enabled(preset: str, schedule: str, speed_up: float, depth: int) -> list[Any]:
    """Return what `_preset_values` does, but leave a list alone, which infotext may have brought beside a preset."""
    return _preset_values(CUSTOM if schedule == "list" else preset, schedule, speed_up, depth)


def _shows_custom(preset: str, schedule: str) -> Any:
    return gr.update(visible=preset == CUSTOM or schedule == "list")


def _depth_with(schedule: str, depth: int) -> int:
    """Return the depth that goes with a schedule: the presets' or the default, unless `depth` is neither of them."""
    preset, usual = PRESETS[BALANCED][host.loaded().family], int(CONTROLS["depth"].default)
    if depth not in {preset["depth"], usual}:
        return depth
    return int(preset["depth"]) if schedule == preset["schedule"] else usual


def _opened_by(*values: Any) -> Any:
    """Open what holds the advanced controls where one of them, pasted say, is not at its default; never close it."""
    defaults = [written(CONTROLS[name].default) for name in _ADVANCED]
    return gr.update(open=True) if list(values) != defaults else gr.update()


def _visibility(schedule: str, hires: str) -> list[Any]:
    return [gr.update(visible=has_effect(name, schedule, hires)) for name in _DEPENDENT]


def _settled(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return what becomes of values, by control, that nobody has changed in the page, and the updates that make it so.

    These are what the changes would bring about: of the controls in `_SETTLING`, and of what holds the custom and the
    advanced ones.
    """
    updates: dict[str, dict[str, Any]] = {name: gr.update() for name in _SETTLING}
    settled = dict(values)
    if values["enabled"]:
        for name, update in zip(_SETS, _values_when_enabled(*(values[n] for n in ("preset", *_SETS))), strict=True):
            updates[name] |= update
            settled[name] = update["value"]
    for name, update in zip(_DEPENDENT, _visibility(settled["schedule"], settled["hires"]), strict=True):
        updates[name] |= update
    custom = _shows_custom(settled["preset"], settled["schedule"])
    advanced = _opened_by(*(settled[name] for name in _ADVANCED))
    return settled, [*updates.values(), custom, advanced]
