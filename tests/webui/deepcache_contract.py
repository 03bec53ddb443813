"""What the adapter relies on in the host's `modules`, checked the same way on the stand-in and on the real ones."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
from modules import (
    images,
    patches,
    paths_internal,
    processing,
    script_callbacks,
    scripts,
    sd_models,
    sd_samplers,
    sd_samplers_common,
    sd_unet,
    shared,
    ui_components,
)
from PIL import Image

from deepcache_ext.webui.hosts import host


def patching_puts_the_original_back():
    owner = type("Owner", (), {"method": lambda _self: "original"})
    original = patches.patch("contract", owner, "method", lambda _self: "replacement")
    found = owner().method(), patches.original("contract", owner, "method") is original
    patches.undo("contract", owner, "method")
    return (*found, owner().method(), patches.original("contract", owner, "method")) == (
        "replacement",
        True,
        "original",
        None,
    )


def a_sampler_runs_through_launch_sampling():
    sampler = sd_samplers_common.Sampler.__new__(sd_samplers_common.Sampler)
    sampler.config = sd_samplers.all_samplers_map["Heun"]
    sampler.model_wrap_cfg = SimpleNamespace()
    sampler.last_latent = "latent"
    parameters = list(inspect.signature(sampler.launch_sampling).parameters)

    def interrupted():
        raise sd_samplers_common.InterruptedException

    results = sampler.launch_sampling(4, lambda: "sampled"), sampler.launch_sampling(4, interrupted)
    return (parameters, results, sampler.model_wrap_cfg.total_steps) == (
        ["steps", "func"],
        ("sampled", "latent"),
        8,
    )


def second_order_samplers_count_twice():
    totals = {name: sd_samplers.all_samplers_map[name].total_steps(10) for name in sd_samplers.all_samplers_map}
    second = {"DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart"}
    known = second | {"DPM++ 2M", "Euler a", "Euler", "LMS", "DPM fast", "DPM adaptive", "DDIM", "PLMS", "UniPC"}
    return known <= set(totals) and {name for name in known if totals[name] == 20} == second


def samplers_tell_whether_they_add_noise():
    options = {name: sampler.options for name, sampler in sd_samplers.all_samplers_map.items()}
    noisy = {name for name, of in options.items() if of.get("uses_ensd") or of.get("brownian_noise")}
    return {"Euler a", "DPM2 a", "DPM++ 2S a", "DPM++ SDE"} <= noisy and not noisy & {
        "Euler",
        "Heun",
        "DPM++ 2M",
        "DDIM",
        "PLMS",
        "UniPC",
    }


def img2img_makes_fewer_steps():
    p = SimpleNamespace(steps=20, denoising_strength=0.75)
    return (
        not (shared.opts.img2img_fix_steps or getattr(shared.opts, "s_min_uncond_all", False))
        and not shared.opts.always_discard_next_to_last_sigma
        and sd_samplers_common.setup_img2img_steps(p)[1] == 15
        and sd_samplers_common.setup_img2img_steps(p, 8)[1] == 7
    )


def a_job_has_a_start():
    state = type(shared.state)()
    state.begin(job="one")
    return isinstance(state.time_start, float)


def no_engine_and_a_place_for_the_model():
    return sd_unet.current_unet is None and hasattr(sd_models.model_data, "sd_model")


def the_denoisers_callback_has_rows_conds_and_the_denoiser():
    given = inspect.signature(script_callbacks.CFGDenoiserParams).parameters
    params = script_callbacks.CFGDenoiserParams("x", None, "sigma", 0, 1, "conds", None, "denoiser")
    found = (params.x, params.sigma, params.text_cond, params.denoiser)
    return "denoiser" in given and found == ("x", "sigma", "conds", "denoiser")


def callbacks_can_be_registered():
    names = ("on_cfg_denoiser", "on_script_unloaded", "on_before_ui", "on_app_started")
    signatures = [inspect.signature(getattr(script_callbacks, name)) for name in names]
    return all(signature.bind(print).arguments == {"callback": print} for signature in signatures)


def a_script_hears_of_components():
    class Contract(scripts.Script):
        is_img2img = False

        def title(self):
            return "Contract"

        def show(self, is_img2img):
            return scripts.AlwaysVisible

    script = Contract()
    script.on_after_component(print, elem_id="one")
    heard = [tuple(entry) for entry in script.on_after_component_elem_id]
    return (heard, script.elem_id("x")) == ([("one", print)], "script_txt2img_contract_x")


def an_accordion_is_a_checkbox():
    with gr.Blocks(), ui_components.InputAccordion(False, label="A", elem_id="a") as accordion:
        pass
    return isinstance(accordion, gr.Checkbox) and (accordion.value, accordion.elem_id) == (False, "a-checkbox")


def a_checkpoint_tells_its_noise_levels():
    levels = host.noise_levels()
    left = [float(levels.alphas_cumprod[timestep]) for timestep in (0, 500, 999)]
    return len(levels.alphas_cumprod) == 1000 and left[0] > left[1] > left[2] and levels.prediction in {"eps", "v"}


def a_checkpoint_has_a_unet():
    loaded = host.loaded()
    return {"input_blocks", "middle_block", "output_blocks"} <= loaded.unet._modules.keys() and loaded == host.loaded()


def pictures_are_made_laid_out_and_told_of():
    pictures = [Image.new("RGB", (60, 60)) for _ in range(4)]
    grid = images.image_grid(pictures, rows=2)
    texts = [[[images.GridAnnotation("a"), images.GridAnnotation("b")] for _ in range(2)] for _ in range(2)]
    annotated = images.draw_grid_annotations(grid, 60, 60, *texts)
    takes = inspect.signature(processing.Processed).parameters
    wanted = {"p", "images_list", "seed", "info", "subseed", "all_prompts", "all_negative_prompts", "all_seeds"}
    wanted |= {"all_subseeds", "index_of_first_image", "infotexts"}
    calls = ("process_images", "fix_seed", "create_infotext", "program_version")
    return (
        grid.size == (120, 120)
        and annotated.size >= grid.size
        and (wanted <= set(takes) or "rest" in takes)
        and all(callable(getattr(processing, name)) for name in calls)
        and "process_images_inner" in processing.process_images.__code__.co_names
    )


def the_state_counts_jobs_and_there_is_a_place_for_the_users_data():
    names = ("job", "job_no", "job_count", "interrupted", "skipped")
    return all(hasattr(shared.state, name) for name in names) and Path(paths_internal.data_path).is_dir()


CHECKS = (
    patching_puts_the_original_back,
    a_sampler_runs_through_launch_sampling,
    second_order_samplers_count_twice,
    samplers_tell_whether_they_add_noise,
    img2img_makes_fewer_steps,
    a_job_has_a_start,
    no_engine_and_a_place_for_the_model,
    a_checkpoint_tells_its_noise_levels,
    a_checkpoint_has_a_unet,
    the_denoisers_callback_has_rows_conds_and_the_denoiser,
    callbacks_can_be_registered,
    a_script_hears_of_components,
    an_accordion_is_a_checkbox,
    pictures_are_made_laid_out_and_told_of,
    the_state_counts_jobs_and_there_is_a_place_for_the_users_data,
)


def results():
    """Return what every check says, by its name: true, false, or the exception that it raised."""
    return {check.__name__: _result(check) for check in CHECKS}


def _result(check):
    try:
        return bool(check())
    except Exception as error:  # noqa: BLE001 - any of them is a broken contract
        return f"{type(error).__name__}: {error}"
