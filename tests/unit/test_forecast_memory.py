"""How much memory a predictor takes at a refresh beyond what it keeps, counted as torch allocates it."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepcache_ext.features.forecast import Line, LineAndResponse

SHAPE, INPUT = (2, 320, 32, 32), (2, 4, 32, 32)
MOST = {"Line": 1.6, "LineAndResponse": 4.5}
"""Memory that is taken at once, in features in half precision; the new change is one of these."""


class Allocated(TorchDispatchMode):
    """Counts the bytes of storages that are made inside it, as long as they live."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen = set()

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        before = {one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        found = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            storage = tensor.untyped_storage() if torch.is_tensor(tensor) else None
            if storage is not None and storage.data_ptr() not in before | self._seen:
                self._add(storage)
        return found

    def _add(self, storage):
        address, size = storage.data_ptr(), storage.nbytes()
        self._seen.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address, size):
        self._seen.discard(address)
        self.now -= size


@pytest.mark.parametrize("predictor", [Line(), LineAndResponse()], ids=lambda one: type(one).__name__)
def test_no_whole_feature_is_copied_more_often_than_it_must(predictor):
    def evaluation(number):
        torch.manual_seed(number)
        return torch.randn(SHAPE).bfloat16(), torch.randn(INPUT).bfloat16(), torch.full((2,), 900.0 - 100 * number)

    kept = predictor.first(*evaluation(0))
    kept = predictor.after(kept, *evaluation(1))
    given = evaluation(2)
    with Allocated() as allocated:
        predictor.after(kept, *given)
    feature = given[0].untyped_storage().nbytes()
    assert 1 <= allocated.peak / feature <= MOST[type(predictor).__name__]
