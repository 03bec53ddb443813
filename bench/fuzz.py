"""Random passes with whatever a host may do to them: does every row get its own, fresh feature?

A small U-Net carries in every output value from which row and which evaluation its deep part came, and is told no
timesteps, so that a line leads nowhere and a reuse has the very feature that was kept. Each run draws settings, a
sampler's length and stages, the view, sizes, splits of the rows into calls, rows left out, changes of layout, size,
dtype and weights in mid-run, an exception inside a block, and checks: no exception of ours, no row with another row's
feature, none from before the last refresh or from another size or layout, interval 1 and everything that is not a reuse
from the evaluation itself, and nothing left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from deepcache_ext import Action, SamplerKind, SamplingPass, Settings
from deepcache_ext.features.forecast import Line
from deepcache_ext.features.rows import Batch
from tests.unit.unets import TaggedUNet, state_of


class BlockError(Exception):
    """Raised inside a block."""


def random_settings(draw: random.Random) -> Settings:
    """Return settings that are allowed, of every kind."""
    start, end = sorted((draw.choice([0.0, draw.random()]), draw.choice([1.0, draw.random()])))
    return Settings(
        interval=draw.choice([1, 2, 2, 3, 3, 4, 5, 9]),
        depth=draw.choice([1, 2]),
        schedule=draw.choice(["auto", "uniform", "uniform", "non-uniform", "list"]),
        speed_up=draw.choice([1.5, 2.0, 3.0]),
        center=draw.randint(-5, 30),
        power=draw.uniform(1, 3),
        steps=tuple(draw.sample(range(30), draw.randint(1, 10))),
        start=start,
        end=end,
        forecast=draw.choice(["on", "off"]),
    )


class Run:
    """One random pass."""

    def __init__(self, draw: random.Random, seen: Counter[str]) -> None:
        self.draw = draw
        self.seen = seen
        self.settings = random_settings(draw)
        self.unet = TaggedUNet()
        self.conds, self.size, self.dtype = draw.randint(1, 4), (4, 4), torch.float32
        self.kept_since = 0
        """The evaluation before which no feature may come from."""
        self.last: dict[int, int] = {}
        """The last evaluation that computed a row in full."""
        self.keyed = draw.random() < 0.5
        self.prompt = 0
        self.foreign = False
        """Whether calls came that are not for the rows that the keys say."""
        self.own_blocks = {name: [*getattr(self.unet, name)] for name in ("input_blocks", "output_blocks")}

    def go(self) -> None:
        """Make the pass; raises AssertionError with what went wrong."""
        draw, before = self.draw, state_of(self.unet)
        total = draw.choice([None, draw.randint(1, 30)])
        view: Any = draw.choice(["auto", "full-length"])
        stages = draw.choice([1, 1, 2])
        predictor = Line() if self.settings.forecast == "on" else None
        with SamplingPass(
            self.unet, self.settings, total, sampler=SamplerKind(stages=stages), predictor=predictor, view=view
        ) as cached:
            for evaluation in range(total or draw.randint(1, 30)):
                raises = self._event(cached, evaluation)
                rows = self._rows()
                of = {"keys": rows, "batch": Batch(1, self.size)} if self.keyed else {"layout": (self.conds,)}
                switched = cached.statistics.switched
                action = cached.start_evaluation(**of, partial=draw.random() < 0.1)
                if action is not Action.REUSE and cached.statistics.switched == switched:
                    self.kept_since = evaluation
                if raises:
                    if self.keyed:
                        cached.say(rows)
                    self._call_that_raises(rows, evaluation)
                    break
                for part in self._calls(rows):
                    if self.keyed:
                        cached.say(part)
                    self._call(part, evaluation, action)
                if self.keyed and draw.random() < 0.02:
                    self._foreign_call(cached, rows, evaluation)
            self._check(not cached.statistics.error, cached.statistics.error)
            self._check(cached.statistics.others == self.foreign, "somebody else's calls were not told apart")
        for name, own in self.own_blocks.items():
            for number, block in enumerate(own):
                getattr(self.unet, name)[number] = block
        self._check(state_of(self.unet) == before and cached.kept_bytes == 0, "something was left behind")

    def _event(self, cached: SamplingPass, evaluation: int) -> bool:
        """Let something happen before an evaluation, and return whether a block is to raise in it."""
        events = ("none", "layout", "prompt", "size", "dtype", "weights", "blocks", "raise")
        event = self.draw.choices(events, (60, 2, 2, 2, 2, 2, 2, 2))[0]
        self.seen[event] += 1
        if event == "layout":
            before, self.conds = self.conds, self.draw.randint(1, 4)
            self.kept_since = self.kept_since if self.conds == before or self.keyed else evaluation
        elif event == "prompt":
            self.prompt = self.draw.randint(0, 1)
        elif event == "blocks":
            blocks = getattr(self.unet, self.draw.choice([*self.own_blocks]))
            number = self.draw.randrange(len(blocks))
            blocks[number] = type(blocks[number])()
            self.kept_since = evaluation
        elif event == "size":
            self.size = self.draw.choice([(4, 4), (6, 4), (4, 8)])
        elif event == "dtype":
            self.dtype = self.draw.choice([torch.float32, torch.float64])
        elif event == "weights":
            cached.move(self.unet)
            self.kept_since = evaluation
        return event == "raise"

    def _rows(self) -> Sequence[int]:
        """Return the numbers of an evaluation's rows: with keys in any order, else by their place, the conds first."""
        draw = self.draw
        if not self.keyed:
            return range(self.conds if draw.random() < 0.2 else self.conds + draw.choice([1, 1, 2]))
        kinds = draw.choice([("cond", "uncond"), ("cond", "uncond"), ("uncond", "cond"), ("cond",), ("uncond",)])
        first = {"cond": 10 + 10 * self.prompt, "uncond": 0}
        return [first[kind] + row for kind in kinds for row in range(self.conds)]

    def _calls(self, rows: Sequence[int]) -> Iterator[Sequence[int]]:
        """Yield the rows of each call of an evaluation."""
        draw = self.draw
        if self.keyed and draw.random() < 0.2:
            rows = draw.sample(rows, len(rows))
        first = 0
        while first < len(rows):
            count = draw.choice([len(rows) - first, draw.randint(1, len(rows) - first)])
            yield rows[first : first + count]
            first += count

    def _foreign_call(self, cached: SamplingPass, rows: Sequence[int], evaluation: int) -> None:
        """Begin an evaluation that somebody else cuts: windows of its rows, or tiles of another size."""
        event = self.draw.choice(["windows", "jitter"])
        self.seen[event] += 1
        cached.start_evaluation(keys=rows, batch=Batch(1, self.size))
        self.foreign, size = True, self.size
        if event == "jitter":
            self.size = (self.size[0] - 1, self.size[1])
            cached.say(rows)
        else:
            cached.say(None)
            rows = self.draw.sample(rows, self.draw.randint(1, len(rows)))
        self._call(rows, evaluation, Action.FULL)
        self.size = size

    def _call(self, rows: Sequence[int], evaluation: int, action: Action) -> None:
        out = self.unet(self._inputs(rows, evaluation))
        for position, row in enumerate(rows):
            of_row, of_evaluation = (int(value) for value in out[position, :2, 0, 0])
            fresh = of_evaluation == evaluation
            self.seen["full rows" if fresh else "reused rows"] += 1
            self._check(of_row == row, f"row {row} got the feature of row {of_row}")
            self._check(fresh or action is Action.REUSE, f"{action} used a kept feature")
            self._check(fresh or not self.foreign, "a feature was used after somebody else's calls")
            self._check(fresh or of_evaluation >= self.kept_since, f"the feature of {of_evaluation} is stale")
            self._check(fresh or self.last.get(row) == of_evaluation, "the feature is not the row's last")
            can_reuse = self.settings.schedule in {"auto", "list"} or self.settings.interval > 1
            self._check(fresh or can_reuse, "interval 1 reused")
            if fresh:
                self.last[row] = evaluation

    def _call_that_raises(self, rows: Sequence[int], evaluation: int) -> None:
        def fail(*_: Any) -> None:
            raise BlockError

        handle = self.unet.output_blocks[-1].register_forward_hook(fail)
        try:
            self.unet(self._inputs(rows, evaluation))
        except BlockError:
            pass
        finally:
            handle.remove()

    def _inputs(self, rows: Sequence[int], evaluation: int) -> torch.Tensor:
        tags = torch.tensor([[row, evaluation] for row in rows], dtype=self.dtype)
        return tags[:, :, None, None].expand(-1, -1, *self.size).clone()

    def _check(self, holds: bool, sentence: str) -> None:
        if not holds:
            raise AssertionError(f"{sentence}; {self.settings}")


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Say in which run an exception was raised."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"{what} failed: {error}") from error


def main() -> None:
    """Make the runs and print what they went through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5000)
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    for number in range(options.runs):
        with naming(f"run {number} of seed {options.seed}"):
            Run(random.Random(f"{options.seed}/{number}"), seen).go()  # noqa: S311 - not for secrets
    print(f"{options.runs} runs of seed {options.seed}: {dict(sorted(seen.items()))}")


if __name__ == "__main__":
    main()
