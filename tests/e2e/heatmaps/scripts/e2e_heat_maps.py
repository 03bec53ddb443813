"""A test-only extension: tells how many attention maps DAAM has of each call of the U-Net when it makes its picture."""

import sys

from modules import script_callbacks

counted = []


def count_maps():
    """Note, whenever DAAM sums its maps up, how many it has: by call, row and size."""
    trace = sys.modules.get("scripts.daam.trace")
    if trace is None:
        return
    summed_up = trace.DiffusionHeatMapHooker.compute_global_heat_map

    def counting(tracer, *args, **kwargs):
        counted[:] = [
            sorted((row, size, len(maps)) for row, of_row in call.items() for size, maps in of_row.items())
            for call in tracer.all_heat_maps
        ]
        return summed_up(tracer, *args, **kwargs)

    trace.DiffusionHeatMapHooker.compute_global_heat_map = counting


def counts():
    """Return what was counted since the last look."""
    found = [*counted]
    counted.clear()
    return found


def add_route(_demo, app):
    count_maps()
    app.add_api_route("/e2e/heat-maps", counts, methods=["GET"])


script_callbacks.on_app_started(add_route)
