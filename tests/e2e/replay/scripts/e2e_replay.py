"""A test-only extension: replays a run's decisions with all blocks run.

While it is on, a reuse runs the deep blocks too, for whatever they do to others, and then goes on with the kept
feature. Two pictures with the same decisions are then the same unless somebody misses the blocks that a reuse skips.
"""

import importlib
import sys

from modules import script_callbacks

ours = {}


def replay(on: bool = True):
    """Switch the replay on or off."""
    views = sys.modules["deepcache_ext.network.views"]
    if not ours:
        ours.update({"deep part": views._DeepPart.forward, "block": views._DeepBlock.forward})
        ours["layers"] = views._DeepBlock.__iter__
    views._DeepPart.forward = run_deep_part if on else ours["deep part"]
    views._DeepBlock.forward = run_block if on else ours["block"]
    views._DeepBlock.__iter__ = go_through_block if on else ours["layers"]


def run_deep_part(part, h, *args, **kwargs):
    feature = part._stand_ins.view.take(len(h))
    if feature is None:
        return ours["deep part"](part, h, *args, **kwargs)
    cat = importlib.import_module("modules.sd_hijack_unet").th.cat  # as the host does, of any two sizes
    skips = []
    for block in part.inputs:
        h = block(h, *args, **kwargs)
        skips.append(h)
    h = part.middle(h, *args, **kwargs)
    for block in part.outputs:
        h = block(cat([h, skips.pop()], dim=1), *args, **kwargs)
    return feature


def run_block(stand_in, h, *args, **kwargs):
    view = stand_in._view
    if stand_in._starts:
        view.start_walk(h)
    computed = stand_in.block(h, *args, **kwargs)
    return view._feature if view.has_feature and stand_in._position == view._stand_ins.last else computed


def go_through_block(stand_in):
    """Do the same where a forward iterates over a block's layers."""
    views, view = sys.modules["deepcache_ext.network.views"], stand_in._view
    if stand_in._starts:
        yield views._Layer(stand_in._begin)
    yield from views.layers(stand_in.block)
    if view.has_feature and stand_in._position == view._stand_ins.last:
        yield views._Layer(lambda _h: view._feature)


def add_route(_demo, app):
    app.add_api_route("/e2e/replay", replay, methods=["POST"])


script_callbacks.on_app_started(add_route)
