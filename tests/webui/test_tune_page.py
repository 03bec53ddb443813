"""The panel's button for tuning, in a real browser on a page like the host's."""

import gradio as gr
import pytest
from modules import sd_models

from tests.browser import page as open_page
from tests.webui.support import load_checkpoint, load_script

CHOSEN = "#script_list input"


@pytest.fixture
def failing():
    """Return the address of a page whose every generation fails, as the host tells it, and which script each had."""
    load_checkpoint()
    module, chosen = load_script(), []
    scripts = module.DeepCacheScript(), module.DeepCacheTuning()

    def announce(component):
        for script in scripts:
            for elem_id, callback in script.on_after_component_elem_id:
                if elem_id == component.elem_id:
                    callback(type("Made", (), {"component": component}))
        return component

    def generate(script):
        chosen.append(script)
        return "<div class='error'>RuntimeError: out of memory</div>", ""

    with gr.Blocks() as page:
        for script in scripts:
            script.ui(script.is_img2img)
        names = announce(gr.Dropdown(["None", module.tune.TITLE], value="None", elem_id="script_list"))
        button = gr.Button("Generate", elem_id="txt2img_generate")
        ends = [announce(gr.HTML(elem_id="html_log_txt2img")), announce(gr.Textbox(elem_id="generation_info_txt2img"))]
        button.click(generate, names, ends, queue=False)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, show_api=False)
    yield address, chosen
    page.close()
    sd_models.model_data.sd_model = None


def test_a_tuning_that_fails_first_of_all_is_taken_out_of_the_list_too(failing):
    address, chosen = failing
    with open_page() as page:
        page.add_init_script("window.gradioApp = () => document")
        page.goto(address)
        page.click("#script_txt2img_deepcache_enabled")
        page.click("#script_txt2img_deepcache_tune")
        page.wait_for_selector("#html_log_txt2img .error")
        page.wait_for_function(f"document.querySelector('{CHOSEN}').value == 'None'", timeout=10000)
    assert chosen == ["DeepCache tuning"]
