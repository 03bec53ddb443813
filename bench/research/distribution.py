"""Are the pictures of a cached run as good as full ones, also where they differ from them?

The Fréchet distance (https://arxiv.org/abs/1706.08500) between the features of a method's pictures and those of full
ones of other seeds and more steps, which stand in for the pictures that the demo's model was trained on. Features are
those of a small classifier of the styles, trained here on yet other full pictures; how often it recognises the style
that was asked for is in the last column. So few pictures bias the distance upwards, for all methods alike: "full" says
by how much.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.parts.report import row, table, written_on
from bench.parts.runs import ALL_SAMPLERS, Task
from bench.parts.walk import share
from bench.research.closeness import own
from demo.tiny_model import TinyModel

COST_MODEL = "SD1.5"
HEADINGS = ("sampler", "method", "speed-up", "Fréchet distance", "style recognised")
SAMPLERS = ("Euler", "DPM++ 2M", "Euler a")
METHODS = ("uniform", "auto")
REFERENCE = "DPM++ 2M"
TRAINING_SEED, REFERENCE_SEED = 20_000, 40_000
FEATURES = 16
EPOCHS, BATCH = 60, 32


class Classifier(nn.Module):
    """Says which style a picture has; `features` are what it says that by."""

    def __init__(self, styles: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        convolutions = (nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in itertools.pairwise(widths))
        self._convolutions = nn.ModuleList(convolutions)
        self._narrow = nn.Linear(4 * widths[-1], FEATURES)
        self._styles = nn.Linear(FEATURES, styles)

    def features(self, pictures: Tensor) -> Tensor:
        """Return the features of RGB pictures (0 to 1), of shape (pictures, FEATURES)."""
        h = pictures - 0.5
        for convolution in self._convolutions:
            h = functional.silu(convolution(h))
        features: Tensor = self._narrow(functional.adaptive_avg_pool2d(h, 2).flatten(1))
        return features

    def forward(self, pictures: Tensor) -> Tensor:
        styles: Tensor = self._styles(functional.silu(self.features(pictures)))
        return styles


def trained(pictures: Tensor, styles: Tensor) -> Classifier:
    """Return a classifier trained on RGB pictures (0 to 1) and the numbers of their styles, of shape (pictures,)."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(1)
        classifier = Classifier(int(styles.max()) + 1)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
        for _ in range(EPOCHS):
            order = torch.randperm(len(pictures))
            for first in range(0, len(order), BATCH):
                batch = order[first : first + BATCH]
                optimizer.zero_grad()
                loss = functional.cross_entropy(classifier(_flipped(pictures[batch])), styles[batch])
                torch.autograd.backward(loss)
                optimizer.step()
    return classifier.requires_grad_(requires_grad=False)


def frechet(one: Tensor, other: Tensor) -> float:
    """Return the Fréchet distance between two sets of features, each of shape (pictures, features)."""
    one, other = one.double(), other.double()
    spread, others = one.T.cov(), other.T.cov()
    products = torch.linalg.eigvals(spread @ others).real.clamp(min=0).sqrt().sum()
    means = (one.mean(0) - other.mean(0)).square().sum()
    return float(means + spread.trace() + others.trace() - 2 * products)


def compare(task: Task, steps: int, classifier: Classifier, reference: Tensor) -> Iterator[list[str]]:
    """Yield the cells of full pictures, of fewer steps and of caching at two speeds; `reference` are features."""
    sampler = ALL_SAMPLERS[task.sampler]
    total, kind = sampler.evaluations(steps), task.kind(steps)
    asked = styles_of(task.model, task.pictures)

    def cells(method: str, speed_up: float, pictures: Tensor) -> list[str]:
        right = (classifier(pictures).argmax(1) == asked).double().mean()
        distance = frechet(classifier.features(pictures), reference)
        return [task.sampler, method, f"{speed_up:.2f}x", f"{distance:.2f}", f"{100 * right:.1f} %"]

    yield cells("full", 1.0, task.run(steps).pictures)
    for interval in (2, 3):
        cached = {}
        for method in METHODS:
            settings = own(interval, total)[method]
            depth = kind.depth(settings)
            run = task.run(steps, settings)
            cached[method] = total / run.compute(share(COST_MODEL, depth, depth)), run.pictures
        fewer = min(range(1, steps), key=lambda count: abs(total / sampler.evaluations(count) - cached["auto"][0]))
        yield cells(f"{fewer} steps", total / sampler.evaluations(fewer), task.run(fewer).pictures)
        for method, found in cached.items():
            yield cells(f"{method}, N = {interval}", *found)


def styles_of(model: TinyModel, count: int) -> Tensor:
    """Return the number of the style that each of the first `count` prompts asks for."""
    styles = model.config["styles"]
    return torch.tensor([styles.index(style) for style, _ in model.prompts(count)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=ALL_SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--reference-steps", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=128, help="of each method; twice as many train")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=3.0)
    options = parser.parse_args()
    print(written_on())
    print(f"{options.steps} steps, {options.pictures} pictures, guidance {options.guidance:g}\n")
    print(table(HEADINGS, []), flush=True)
    model = TinyModel()

    def full(count: int, seed: int) -> Tensor:
        task = Task(model, REFERENCE, count, options.batch, options.guidance, seed)
        return task.run(options.reference_steps).pictures

    training = 2 * options.pictures
    classifier = trained(full(training, TRAINING_SEED), styles_of(model, training))
    reference = classifier.features(full(options.pictures, REFERENCE_SEED))
    for name in options.samplers:
        task = Task(model, name, options.pictures, options.batch, options.guidance)
        for cells in compare(task, options.steps, classifier, reference):
            print(row(cells), flush=True)


def _flipped(pictures: Tensor) -> Tensor:
    return torch.where(torch.rand(len(pictures), 1, 1, 1) < 0.5, pictures, pictures.flip(3))


if __name__ == "__main__":
    main()
