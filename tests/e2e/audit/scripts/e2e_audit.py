"""A test-only extension: proves on the side where the feature of each reuse comes from.

It hooks the blocks themselves. A call whose first output block is not the U-Net's first has reused; what that block
was given must be, row by row, what the block before it returned in the last full call of the same pass for the row
and its conditioning.
"""

import hashlib
from dataclasses import dataclass, field

from modules import script_callbacks, shared


@dataclass
class Call:
    """What one U-Net call did, by walk over the blocks."""

    rows: list
    """Each row's place in the evaluation, and a checksum of what conditions it."""
    walk: int = -1
    given: dict = field(default_factory=dict)
    """The first output block's number and its input."""
    returned: dict = field(default_factory=dict)
    """Each output block's output, by walk and number: the size and a checksum for each row."""


class Audit:
    def __init__(self):
        self.handles = []
        self.watched = None
        self.clear()
        self.channels = {}

    def clear(self):
        self.denoiser = None
        self.row = 0
        self.last = {}
        self.call = None
        self.reused_rows = 0
        self.problems = []

    def start_evaluation(self, params):
        model = shared.sd_model
        watched = (model.model.diffusion_model, model.sd_checkpoint_info.name)
        if self.watched is None or watched[0] is not self.watched[0]:
            self.watch(watched[0])
        if watched != self.watched or params.denoiser is not self.denoiser or params.denoiser.step == 0:
            self.last = {}
        self.watched, self.denoiser, self.row = watched, params.denoiser, 0

    def watch(self, unet):
        for handle in self.handles:
            handle.remove()
        self.handles = [
            unet.register_forward_pre_hook(self.start_call, with_kwargs=True),
            unet.register_forward_hook(self.end_call),
            unet.input_blocks[0].register_forward_pre_hook(self.start_walk),
        ]
        for number, block in enumerate(unet.output_blocks):
            self.handles.append(block.register_forward_pre_hook(self.before(number)))
            self.handles.append(block.register_forward_hook(self.after(number)))

    def start_call(self, _unet, args, kwargs):
        rows = len(args[0] if args else kwargs["x"])
        context = kwargs["context"] if "context" in kwargs else args[2]
        self.call = Call([(self.row + number, checked(of_row)) for number, of_row in enumerate(context)])
        self.row += rows

    def start_walk(self, *_):
        self.call.walk += 1

    def before(self, number):
        def hook(_block, args):
            self.call.given.setdefault(self.call.walk, (number, args[0]))

        return hook

    def after(self, number):
        def hook(_block, _args, output):
            self.channels[number] = output.shape[1]
            self.call.returned[self.call.walk, number] = [checked(row) for row in output]

        return hook

    def end_call(self, *_):
        call, self.call = self.call, None
        for walk, (number, given) in call.given.items():
            if number == 0:
                continue
            for row, value in zip(call.rows, given, strict=False):
                self.reused_rows += 1
                kept = {key[0]: of for key, of in self.last.get(row, {}).items() if key[1] == number - 1}
                # where a unit with a walk of its own has stopped, the one that is left was not the first
                expected = [kept[walk]] if len(kept) == len(call.given) else list(kept.values())
                found = checked(value[: self.channels[number - 1]])
                if not expected or (expected[0][0] == found[0] and found not in expected):
                    self.problems.append(f"row {row[0]} of walk {walk}: {'stale' if expected else 'unknown'} feature")
        if all(number == 0 for number, _ in call.given.values()):
            for position, row in enumerate(call.rows):
                self.last[row] = {
                    key: outputs[position] for key, outputs in call.returned.items() if position < len(outputs)
                }


def checked(row):
    """Return the size and a checksum of one row's feature."""
    return tuple(row.shape), hashlib.sha1(row.float().contiguous().numpy().tobytes()).hexdigest()  # noqa: S324


audit = Audit()


def results():
    """Return what was found since the last call."""
    found = {"reused_rows": audit.reused_rows, "problems": audit.problems}
    audit.clear()
    return found


def add_routes(_demo, app):
    app.add_api_route("/e2e/audit", results, methods=["GET"])


script_callbacks.on_cfg_denoiser(audit.start_evaluation)
script_callbacks.on_app_started(add_routes)
