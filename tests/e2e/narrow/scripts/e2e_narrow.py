"""A test-only extension: has FreeU know the blocks of a small checkpoint, not by the usual widths."""

import sys

from modules import script_callbacks, shared

WIDTHS = (1280, 640, 320)


def narrow():
    free_u = sys.modules.get("lib_free_u.unet")
    if free_u is not None:
        hijack, narrowest = free_u.free_u_cat_hijack, shared.sd_model.model.diffusion_model.model_channels
        widths = tuple(width // WIDTHS[-1] * narrowest for width in WIDTHS)
        constants = tuple(widths if constant == WIDTHS else constant for constant in hijack.__code__.co_consts)
        hijack.__code__ = hijack.__code__.replace(co_consts=constants)


def add_route(_demo, app):
    app.add_api_route("/e2e/narrow-freeu", narrow, methods=["POST"])


script_callbacks.on_app_started(add_route)
