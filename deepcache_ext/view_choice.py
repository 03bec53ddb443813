"""Which view a U-Net call gets: what was kept of the calls before it, and the blocks that are there now."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Literal

from torch import nn

from deepcache_ext.features.store import Call, RowStore, Signature
from deepcache_ext.network.control import short_controls
from deepcache_ext.network.hold import Hold, same
from deepcache_ext.network.remembering import IsHosts, Repeated
from deepcache_ext.network.unet import block_modules, has_foreign_forward
from deepcache_ext.network.views import CompactView, FullLengthView, RefreshView, Shapes, UntouchedView, View
from deepcache_ext.planning.schedule import Action

ViewName = Literal["auto", "compact", "full-length"]


class ViewChoice:
    """Picks the views of a U-Net's calls at one depth, and drops what they have left together with the `store`.

    `view`, `control_models` and `is_hosts` are as for `SamplingPass`.
    """

    def __init__(
        self,
        unet: nn.Module,
        depth: int,
        store: RowStore,
        *,
        view: ViewName,
        control_models: Callable[[], Iterable[Any]],
        is_hosts: IsHosts,
    ) -> None:
        self._unet = unet
        self._depth = depth
        self._store = store
        self._view = view
        self._control_models = control_models
        self._is_hosts = is_hosts
        self._shapes: dict[Signature, Shapes] = {}
        self._repeated: dict[tuple[Hashable, ...], Repeated] = {}
        self._blocks: tuple[nn.Module, ...] = ()
        self._hold: Hold | None = None

    def start_refresh(self) -> None:
        """Drop what the next refresh makes anew."""
        self._store.start_refresh()
        self._shapes.clear()
        self._repeated.clear()

    def drop(self) -> None:
        """Drop all that was kept of calls."""
        self._store.clear()
        self._shapes.clear()
        self._repeated.clear()
        self._blocks = ()

    def release(self) -> None:
        """Drop what was worked out for the U-Net as well."""
        self.drop()
        self._hold = None

    def note_blocks(self) -> bool:
        """Note the blocks in the lists now, and tell whether they are others, so that what was kept is dropped."""
        now = block_modules(self._unet)
        others = bool(self._blocks) and not same(self._blocks, now)
        if others:
            self.drop()
        self._blocks = now
        return others

    def can_reuse(self) -> bool:
        """Tell whether what the last refresh left fits the U-Net as it is now, whichever rows a call is for."""
        if self._hold is None or not any(self._shapes.values()):
            return False
        return same(self._blocks, block_modules(self._unet)) and self._all_heard(self._hold)

    def view_of(self, call: Call, action: Action, *, owes: bool) -> View | None:
        """Return the view of a call in an evaluation that does `action`, None for the untouched U-Net.

        With `owes` its output is looked at, whatever it does. A call to reuse of which nothing is kept is computed.
        """
        if action is Action.FULL:
            return UntouchedView(Repeated()) if owes else None
        hold, keys, reuses = self._hold_now(), tuple(call.keys), action is Action.REUSE
        modules = hold.watch.modules(for_reuse=reuses)
        repeated = self._repeated.get(keys) or Repeated()
        full_length = self._view == "full-length" or (self._view == "auto" and has_foreign_forward(self._unet))
        shapes = self._shapes.setdefault(call.signature, {}) if full_length else {}
        reuses = reuses and repeated.covers(modules) and bool(shapes or not full_length)
        features = self._store.take(call) if reuses else None
        if features is None:
            self._repeated[keys] = repeated = Repeated(modules, hold.watch.prepare)
        else:
            repeated = repeated.only(modules)
        if full_length:
            beside = short_controls(self._control_models(), self._depth) if features else ()
            return FullLengthView(hold.stand_ins, call.x, features or {}, shapes, repeated, beside)
        if features is None:
            return RefreshView(self._unet, self._depth, repeated)
        return CompactView(hold.stand_ins, features, repeated)

    def leave(self, view: View) -> None:
        """Tell that a call has ended whose view this was: hooks that come from now on are other people's."""
        if view.only_our_hooks and self._hold is not None:
            self._hold.watch.leave()

    def _all_heard(self, hold: Hold) -> bool:
        """Tell whether the last refresh heard whatever a reuse has to call again."""
        modules = hold.watch.modules(for_reuse=True)
        return all(repeated.covers(modules) for repeated in self._repeated.values())

    def _hold_now(self) -> Hold:
        if self._hold is None or not same(self._hold.blocks, self._blocks):
            self._hold = Hold(self._unet, self._depth, self._is_hosts)
        return self._hold
