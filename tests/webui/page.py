"""A page with the host's components that the panel follows, the panel itself, and a button that runs a job."""

import json
from pathlib import Path

import gradio as gr
from modules import sd_samplers
from modules.ui_components import InputAccordion

from tests.webui.support import Processing, job

TABS = ("txt2img", "img2img")


def build(module):
    """Return the page around the script in `module`, and the scripts of its tabs."""
    made = {}
    with gr.Blocks(css=Path("style.css").read_text(encoding="utf-8")) as page:
        for tab in TABS:
            with gr.Tab(tab):
                made[tab] = _tab(module, tab)
    return page, made


def _tab(module, tab):
    script = module.DeepCacheScript()
    script.is_img2img = tab == "img2img"

    def announce(component):
        for elem_id, callback in script.on_after_component_elem_id:
            if elem_id == component.elem_id:
                callback(type("Made", (), {"component": component}))
        return component

    names = [data.name for data in sd_samplers.all_samplers]
    announce(gr.Dropdown(names, value="DPM++ 2M", label="Sampling method", elem_id=f"{tab}_sampling"))
    announce(gr.Slider(1, 150, 20, step=1, label="Sampling steps", elem_id=f"{tab}_steps"))
    if tab == "txt2img":
        with InputAccordion(False, label="Hires. fix", elem_id="txt2img_hr") as hires:
            announce(gr.Slider(0, 150, 0, step=1, label="Hires steps", elem_id="txt2img_hires_steps"))
            announce(gr.Slider(0, 1, 0.7, label="Denoising strength", elem_id="txt2img_denoising_strength"))
            announce(gr.Dropdown(["Use same sampler", *names], value="Use same sampler", elem_id="hr_sampler"))
        announce(hires)
    else:
        announce(gr.Slider(0, 1, 0.75, label="Denoising strength", elem_id="img2img_denoising_strength"))
    controls = script.ui(script.is_img2img)
    button = gr.Button("Generate", elem_id=f"{tab}_generate")
    info = announce(gr.Textbox(elem_id=f"generation_info_{tab}"))

    def generate(*arguments):
        job(module.controller, Processing(img2img=script.is_img2img), *arguments, steps=20)
        return json.dumps(arguments)

    button.click(generate, controls, info, queue=False)
    return script
