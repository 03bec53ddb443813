"""Tuning in the host's list of scripts, and the panel's buttons that start it and forget what it found."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from deepcache_ext.webui.hosts import host
from deepcache_ext.webui.panel import Panel
from deepcache_ext.webui.tuning.questions import PICTURES
from deepcache_ext.webui.tuning.tune import TITLE, Tuner

ABOUT = (
    "Finds, for the presets, plans whose pictures are closer on the loaded checkpoint, with this tab's prompt, sampler "
    f"and steps. Makes {PICTURES} pictures, most of them faster than a full one. With a batch size of several it makes "
    "as many batches; what it finds is then less a matter of chance."
)
LOGS = ("html_log_txt2img", "html_log_img2img")
"""The host's components that tell an error of a generation; `FINISHED` don't change if the first of all fails."""


class TunePanel:
    """What one tab shows of tuning."""

    def __init__(self, tuner: Tuner) -> None:
        self._tuner = tuner
        self._pressed = False
        """Whether the panel's button has started what is running."""
        gr.HTML(f"<p>{ABOUT}</p>")

    def connect(self, panel: Panel, script_list: Any, generate: str, finished: Any, log: Any) -> None:
        """Have the panel's buttons start a tuning and forget what was found; `generate` is the id of the host's button.

        The host's `script_list` has this one chosen while it runs, and none after that. `finished` changes when a
        generation has, and `log` tells its error.
        """
        quick: dict[str, Any] = {"show_progress": False, "queue": False}
        press = f"() => {{ gradioApp().querySelector('#{generate}').click(); }}"
        panel.tune.click(self._press, None, [script_list, panel.tuned], **quick).then(fn=None, _js=press)
        panel.forget.click(self._forget, None, panel.tuned, **quick)
        finished.change(self._finish, None, [script_list, panel.tuned], **quick)
        if log is not None:
            log.change(self._finish_failed, log, [script_list, panel.tuned], **quick)

    def _press(self) -> list[Any]:
        self._pressed = True
        return [gr.update(value=TITLE), _paragraphs([ABOUT])]

    def _finish(self) -> list[Any]:
        if not self._pressed:
            return [gr.update(), gr.update()]
        self._pressed = False
        nothing, tuning = self._tuner.tuned_nothing, self._tuner.last
        told = [f"Tuned nothing: {nothing}."] if nothing else tuning.sentences() if tuning else []
        return [gr.update(value="None"), _paragraphs(told)]

    def _finish_failed(self, log: str | None) -> list[Any]:
        return self._finish() if "class='error'" in (log or "") else [gr.update(), gr.update()]

    def _forget(self) -> str:
        checkpoint = host.checkpoint()
        try:
            count = self._tuner.plans.forget(checkpoint)
        except OSError as error:
            return _paragraphs([f"The plans can't be written: {error.strerror}."])
        return _paragraphs([f"Forgot the plans for {count} kinds of runs with this checkpoint."])


def _paragraphs(sentences: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
