"""The table of docs/works-with.md: which tests show a row, and what came of them.

With WORKS_WITH=FILE in the environment a run of the end-to-end tests writes what came of its rows into that JSON
file, beside the rows of earlier runs.
"""

import datetime as dt
import json
from fnmatch import fnmatch
from pathlib import Path

from tests.e2e.hosts import KINDS

HOSTS = [kind.name for kind in KINDS]
TESTED, NOT_TESTED, BROKEN = "tested", "not tested", "does not work"

ROWS = {
    "txt2img with SD1 and SDXL checkpoints": "off::*",
    "every sampler of the host's list, DPM adaptive and Restart too": "samplers::*",
    "img2img, and inpainting with a mask": "passes::*_img2img*, passes::*_inpainting*",
    "hires fix, with its own sampler, steps and checkpoint too": "passes::*_hires_fix*",
    "hires fix from 256 to 512 and to 344": "checkpoints::*_hires_fix_from_256*",
    "refiner in mid-run": "passes::*_refiner_*",
    "SDXL and its refiner": "checkpoints::*_refiner*",
    "SDXL checkpoints with v-prediction": "checkpoints::*_predicts*-v]",
    "SD2 checkpoints, v-prediction": "checkpoints::*SD2*",
    "inpainting checkpoints": "checkpoints::*-inpainting*, checkpoints::*[[]inpainting*",
    "InstructPix2Pix checkpoints": "checkpoints::*edit*, checkpoints::*pix2pix*",
    "SD3 checkpoints: made without caching, and it says so": "checkpoints::*sd3*",
    "batch count, and batches of 1, 3 and 8": "passes::*_batches*, combinations::*batch of*, checkpoints::*of_a_batch*",
    "sizes that are multiples of 8 only": "combinations::*136x200*, combinations::*hires fix to 1.4*",
    "X/Y/Z plot": "passes::*_xyz_*",
    "jobs that another extension makes inside, as ADetailer does": "passes::*_jobs_*",
    "ControlNet: one unit, two, one that ends in mid-run, hires fix, SDXL": "controlnet::*",
    "T2I adapter": "controlnet::*T2I*",
    "reference-only": "controlnet::*reference*",
    "LoRA": "combinations::*_lora_*",
    "textual inversion": "networks::*_textual_inversion*",
    "LoRA Block Weight: a start, a stop, blocks": (
        "lora_extensions::*start*, lora_extensions::*stop*, lora_extensions::*_blocks_*"
    ),
    "Dynamic Lora Weights (loractl): ramps and jumps": (
        "lora_extensions::*curve*, lora_extensions::*_changes_*, lora_extensions::*_ramp_*"
    ),
    "hypernetworks": "networks::*_hypernetwork*",
    "batch cond/uncond off": "combinations::*batch_cond_uncond off*, combinations::*_split_*",
    "prompts over 75 tokens, padded or not": "combinations::*long prompt*",
    "AND, BREAK, prompt editing; prompts that take turns are made in full": (
        "combinations::*AND*, combinations::*BREAK*, combinations::*_prompt_editing_*, walks::*_that_change*"
    ),
    "Negative Guidance minimum sigma, on all steps or every other": "combinations::*Negative Guidance*",
    "Skip Early CFG": "combinations::*Skip Early CFG*",
    "CFG 1": "combinations::*CFG 1*",
    "token merging": "combinations::*token merging*",
    "hypertile": "combinations::*hypertile*",
    "FreeU": "extensions::*FreeU*, builtins::*FreeU*, builtins::*freeu*",
    "self-attention guidance": "extensions::*self-attention*, builtins::*SAG*, builtins::*[[]selfattention*",
    "perturbed-attention guidance": (
        "extensions::*perturbed-attention*, extensions::*_begins_in_mid_run*, builtins::*PAG*, "
        "builtins::*[[]perturbedattention*"
    ),
    "Kohya's HRFix": "builtins::*Kohya*, builtins::*kohya*",
    "Never OOM": "builtins::*Never OOM*",
    "S-CFG of incantations": "extensions::*S-CFG*, correction_with::*S-CFG*",
    "CFG rescale": "builtins::*_rescaled*",
    "attention heat maps (DAAM)": "replays::*_daam*",
    "T2I-Zero": "extensions::*T2I-Zero*",
    "Tiled Diffusion and similar extensions: tiles are made without caching, and it says so": (
        "extensions::*Diffus*, builtins::*_multidiffusion*"
    ),
    "DemoFusion: its tiles likewise": "extensions::*_demofusion*",
    "Dynamic Thresholding": "extensions::*thresholding*, correction_with::*Thresholding*",
    "corrections with thresholding, PAG, S-CFG, a mask, controls and unconds that end": "correction_with::*",
    "NegPiP, with short and long prompts": "replays::*_negpip*",
    "Regional Prompter: attention, latent and prompt": "replays::*_regional*",
    "AnimateDiff; more frames than its context are made without caching, and it says so": "replays::*_animatediff*",
    "Kohya Hires.fix": "replays::*_kohya*",
    "the WebUI's scripts prompt matrix, prompts from file, SD upscale, loopback": "walks::*_script_of*",
    "`--lowvram`": "lowvram::*--lowvram*",
    "`--medvram`": "lowvram::*--medvram*",
    "`--medvram-sdxl`": "flags::*--medvram-sdxl*",
    "`--opt-channelslast`": "flags::*channelslast*",
    "`--nowebui`": "flags::*--nowebui*",
    "fp8 weights": "flags::*fp8*",
    "interrupt and skip": "interruptions::*_interrupt*, interruptions::*_skip_*",
    "an out-of-memory error or NaN in mid-run": "interruptions::*_out_of_memory*, interruptions::*_nan*",
    "another checkpoint loaded between two pictures": "interruptions::*_another_checkpoint*",
    "several API requests at once": "combinations::*_several_*",
    "Reload UI": "reload::*, interruptions::*_reload_ui*",
}
"""The tests of each row, by file and name."""


class Outcomes:
    """A pytest plugin that collects what came of every test, and writes the rows at the end."""

    def __init__(self, file):
        self.file = Path(file)
        self.found = {}

    def pytest_runtest_logreport(self, report):
        host, name = of_node(report.nodeid)
        if host and (report.when == "call" or report.outcome != "passed"):
            worst = {"passed": 0, "skipped": 1, "failed": 2}
            of_host = self.found.setdefault(host, {})
            of_host[name] = max(of_host.get(name, "passed"), report.outcome, key=worst.get)

    def pytest_sessionfinish(self):
        known = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        rows = known.get("rows", {})
        found = {host: rows_of(outcomes) for host, outcomes in self.found.items()}
        ordered = {
            title: {host: found.get(host, {}).get(title, rows.get(title, {}).get(host, NOT_TESTED)) for host in HOSTS}
            for title in ROWS
        }
        today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
        self.file.write_text(json.dumps({"date": today, "rows": ordered}, indent=2) + "\n", encoding="utf-8")


def of_node(nodeid):
    """Return the host that a test ran on and its name without that, as ROWS has it."""
    name = nodeid.rpartition("/test_")[2].replace(".py::test_", "::_")
    for host in HOSTS:
        for part, rest in ((f"[{host}]", ""), (f"[{host}-", "["), (f"-{host}]", "]")):
            if part in name:
                return host, name.replace(part, rest)
    return "", name


def rows_of(outcomes):
    """Return what came of each row that some of the tests of `outcomes` belong to."""
    found = {}
    for title, patterns in ROWS.items():
        of_row = [outcome for name, outcome in outcomes.items() if any(fnmatch(name, p) for p in patterns.split(", "))]
        if of_row:
            found[title] = BROKEN if "failed" in of_row else TESTED if "passed" in of_row else NOT_TESTED
    return found


def table(results):
    """Return the table of what a file of results says."""
    rows = [f"| with | {' | '.join(HOSTS)} |", "| --- " * (1 + len(HOSTS)) + "|"]
    rows += [f"| {title} | {' | '.join(of[host] for host in HOSTS)} |" for title, of in results["rows"].items()]
    return "\n".join(rows)
