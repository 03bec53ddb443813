"""One pass: from its first evaluation to its last, what its caller and the hook on its U-Net tell goes to its parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar, get_args

from torch import Tensor, nn

from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.features.forecast import Held, Predictor, usual_predictor
from deepcache_ext.features.per_row import PerRow, of_each_row
from deepcache_ext.features.rows import Batch, Rows
from deepcache_ext.features.store import Call, RowStore
from deepcache_ext.network.control import ControlsAhead
from deepcache_ext.network.hook import CallHook, reset_hooks
from deepcache_ext.network.in_force import InForce
from deepcache_ext.network.remembering import IsHosts
from deepcache_ext.network.unet import find_unet, is_compiled, max_depth
from deepcache_ext.network.views import View
from deepcache_ext.planning.clock import Clock, schedule_of
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.sampler_run import SamplerRun
from deepcache_ext.planning.schedule import Action
from deepcache_ext.planning.settings import Settings
from deepcache_ext.sentence import of_error, shown
from deepcache_ext.settling import Settling, times_of
from deepcache_ext.statistics import Statistics
from deepcache_ext.view_choice import ViewChoice, ViewName

logger = logging.getLogger("deepcache")

T = TypeVar("T")
DISPLACED = "another pass took the U-Net; from there on computed in full"
TAKEN_OFF = "another extension removed the cache's hook from the U-Net; from there on computed in full"
COMPILED = "the U-Net was compiled before the pass and would run as it is; compile it in the pass, or not at all"
SHORTENED = "a control model was shortened for a call that could not reuse"


class SamplingPass:
    """Caches the deep features of one U-Net for the length of one sampling run.

    `model` is the U-Net or a module that contains it, `total` the number of evaluations that the sampler will make,
    None if unknown, and `sampler` what is known about it. `run` is what it answered, evaluation by evaluation, if it
    was asked (`planning.dry_run`): where the noise has risen again nothing is reused, evaluations at another size are
    not in the plan, which goes on after them as if they had not been, and reuses are put right (`correction`) if that
    can be done. Two stages move the input off its line and so does noise; the forecast of a feature then follows the
    input, but with both of them features are held. With noise the output of a reuse is also drawn towards the last
    refresh's denoised picture, if `levels` tell what timesteps and outputs mean.
    `reuse`, the cost of a reuse as a part of a full evaluation, is for the schedule "auto"; without it, about SD1's.
    `predictor` says what a kept feature has become, in the place of the one that the settings and the sampler would
    have. `view` picks what a reuse puts in place of the block lists: "compact" for the stock loop, "full-length" for a
    forward that counts blocks, "auto" to decide by whether the instance has a forward of its own. `control_models` is
    asked at every such reuse for the ControlNets that the forward will call: of them, too, only what has an effect on
    the reuse runs. `controls_ahead` is asked at each evaluation for those that are called before the U-Net and whose
    residuals it takes out of lists; calls of these need the evaluation's keys and batch. `is_hosts` tells which hooks
    on the U-Net's layers are the host's own; others may be somebody's memory, so that a reuse calls such layers again.

    Raises ValueError if `model` contains no U-Net, the depth is more than this U-Net has, or `total`, `reuse` or
    `view` is none of the values above.

    The method is DeepCache, https://arxiv.org/abs/2312.00858.
    """

    def __init__(
        self,
        model: Any,
        settings: Settings,
        total: int | None = None,
        *,
        sampler: SamplerKind = SamplerKind(),
        run: SamplerRun | None = None,
        levels: NoiseLevels | None = None,
        reuse: float | None = None,
        predictor: Predictor | None = None,
        view: ViewName = "auto",
        control_models: Callable[[], Iterable[Any]] = tuple,
        controls_ahead: Callable[[], Iterable[Any]] = tuple,
        is_hosts: IsHosts = lambda _hook: False,
    ) -> None:
        if view not in get_args(ViewName):
            raise ValueError(f"view must be one of {', '.join(get_args(ViewName))}; got {shown(view)}")
        self.settings = settings
        self._run = run
        self._times = self._times_at(levels)
        if not self._times:
            sampler = replace(sampler, pays_back=False)
        self.depth = sampler.depth(settings)
        self.schedule = schedule_of(settings, total, sampler, run, reuse)
        self._elsewhere = frozenset[int]() if run is None else run.others
        self._view = view
        self._control_models = control_models
        self._controls_ahead = controls_ahead
        self._is_hosts = is_hosts
        self._controls = ControlsAhead(self.depth, self._will_reuse, self._fail)
        self._sampler = sampler
        predicts_noise = levels is not None and levels.prediction == "eps"
        usual = usual_predictor(sampler.stages, noisy=sampler.noisy, predicts_noise=predicts_noise)
        self._predictor = predictor or (Held() if settings.forecast == "off" else usual)
        self._take(model, levels)
        self._start()

    @property
    def unet(self) -> nn.Module:
        """The U-Net that the pass is for."""
        return self._hook.unet

    def _take(self, model: Any, levels: NoiseLevels | None) -> None:
        """Make what belongs to the U-Net in `model`, whose timesteps and outputs mean what `levels` say."""
        reset_hooks(model)
        unet, depth = find_unet(model), self.depth
        if depth > max_depth(unet):
            raise ValueError(f"depth must be a whole number from 0 to {max_depth(unet)} for this U-Net; got {depth}")
        self._model = model
        self._hook = CallHook(unet, self._choose, self._done, self._fail, self._release, self._be_displaced)
        self._network = InForce(unet, self._sampler.stages, self._fail)
        draws = self._sampler.noisy and self.settings.forecast == "on"
        self._store = store = RowStore(self._predictor, levels=levels if draws else None)
        self._views = ViewChoice(
            unet, depth, store, view=self._view, control_models=self._control_models, is_hosts=self._is_hosts
        )
        self._settling = Settling(unet, store, self._run, levels, corrects=self._sampler.corrects(self.settings))

    def _times_at(self, levels: NoiseLevels | None) -> tuple[float, ...]:
        """Return the timestep of each evaluation of the run; () where it is not known what its outputs mean."""
        return () if self._run is None or levels is None else times_of(self._run, levels)

    def _start(self) -> None:
        self.statistics = Statistics()
        jumps, remembers = self._sampler.jumps, self._predictor.remembers
        self._clock = Clock(self.schedule, self._elsewhere, jumps=jumps, remembers=remembers)
        self._layout: Hashable = None
        self._keys: frozenset[Hashable] | None = None
        self._rows = Rows()
        self._said: Sequence[Hashable] | None = None
        self._says = False
        self._shortened = False
        self._call: Call | None = None
        self._all_reused = False

    def __enter__(self) -> SamplingPass:
        return self.install()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"SamplingPass({self.settings}, {self.statistics}, {self._store})"

    @property
    def kept_bytes(self) -> int:
        """Memory that the kept features hold, in bytes."""
        return self._store.nbytes + self._settling.nbytes

    def install(self) -> SamplingPass:
        """Hook the U-Net, in the place of any other pass that still does, start the clock, and return the pass.

        Raises ValueError if the U-Net is compiled: what was compiled without the hook goes on without it.
        """
        self._check_not_compiled()
        self._hook.install()
        self._network.install()
        self._settling.install()
        self._settling.count(self.statistics)  # what an earlier run left
        self._start()
        return self

    def move(self, model: Any, levels: NoiseLevels | None = None) -> None:
        """Go on with the U-Net in `model`, or with the same one and new weights: its next evaluation is full.

        `levels` are what its timesteps and outputs mean, as for the constructor. A pass that has stopped caching, for
        an error or another pass, goes on without.

        Raises ValueError as the constructor and `install` do; the pass is then removed.
        """
        self.remove()
        self._settling.count(self.statistics)
        self._times = self._times_at(levels)
        self._take(model, levels)
        if not self.statistics.error:
            self._check_not_compiled()
            self._hook.install()
            self._network.install()
            self._settling.install()

    def _check_not_compiled(self) -> None:
        if is_compiled(self._model, self.unet):
            raise ValueError(COMPILED)

    def remove(self) -> None:
        """Leave the U-Net as it was found and release the kept features."""
        self._hook.remove()

    def forget(self) -> None:
        """Drop the kept features, for instance because the U-Net has new weights; the next evaluation is full.

        What reuses before it were off stays as it is.
        """
        self._views.drop()
        self._settling.clear()

    def _be_displaced(self) -> None:
        self.statistics.error = self.statistics.error or DISPLACED

    def _release(self) -> None:
        self._controls.remove()
        self._network.remove()
        self._views.release()
        self._settling.remove()
        self._call = None

    def wrap(self, denoiser: Callable[..., T]) -> Callable[..., T]:
        """Return `denoiser`, which takes an input and its noise levels, each call of it starting an evaluation."""

        def evaluate(*args: Any, **kwargs: Any) -> T:
            x = args[0] if args else None
            batch = Batch.of(x) if isinstance(x, Tensor) and x.ndim == 4 else None
            self.start_evaluation(batch=batch, noise=args[1] if len(args) > 1 else None)
            return denoiser(*args, **kwargs)

        return evaluate

    def start_evaluation(
        self,
        layout: Hashable = None,
        *,
        keys: Sequence[Hashable] | None = None,
        batch: Batch | None = None,
        exact: bool = True,
        partial: bool = False,
        noise: Tensor | None = None,
        in_force: Callable[[], Any] | None = None,
    ) -> Action:
        """Tell the pass that the sampler asks for the next evaluation, and return what it will do.

        `keys` say what each of its rows is, in the order of the U-Net's calls, such as ("cond", 0), ("uncond", 0). A
        row whose conditioning is another than before has another key. Where a key is new, the whole evaluation is
        computed in full, and the next one too if the predictor needs two; if it is new to the whole run, what follows
        is planned anew. Without keys, rows are told by their place. Without `exact` they are what to expect, and `say`
        may name others.

        `batch` is the sampler's own. Calls that are no cut of it (see `features.rows`), or together for fewer rows than
        there are keys, are somebody else's: from then on the pass computes everything in full.

        `layout` is anything else that makes what was kept useless when it changes, such as which control units are
        active where they change the walks or, without keys, the number of conds. It must not change where only the
        last rows, the unconds, are left out for an evaluation. Where they are and the next evaluation has them again,
        `partial` has it make the refresh that is due now: a refresh without them would have to be made again at once.

        `noise` are the rows' noise levels, sigmas or timesteps. They are looked at for samplers that jump: where they
        have risen since the last evaluation, this one is made in full.

        An evaluation after one that reused and then called for more rows than any before is a refresh too: a guidance
        that begins there amplifies the difference between its own row, just made, and one that was reused.

        `in_force` is asked at the evaluation's first call, by when everybody has had a say, and returns what tells the
        network in force from another: its weights, as far as the caller knows, and which controls are on. Where that is
        another than in the last evaluation, or somebody has written into the weights since, the evaluation is made in
        full, and the next one too if the predictor needs two. Where it changes with every step no single one is.

        Raises ValueError for keys of which two are the same.
        """
        self._hook.reset()
        if self._hook.taken_off:
            self.statistics.error = self.statistics.error or TAKEN_OFF
            self.remove()
            self._settling.count(self.statistics)
        self._controls.reset()
        rows = Rows(keys, batch, self._rows.handed if self._clock.index >= 0 else None, exact=exact)
        self.statistics.others |= not self._rows.complete
        self._call, self._rows, self._said = None, rows, None
        last_keys, self._keys = self._keys, None if keys is None else frozenset(keys)
        if self._keys != last_keys:
            self._settling.clear()  # an output without unconds counts otherwise than one with them
        if not self._clock.advance():
            self._controls.watch(())
            return self._clock.action
        known = keys is None or self._store.has(keys)
        self._clock.decide(
            keys,
            known=known,
            keeps=len(self._store) > 0,
            corrects=self._settling.corrects,
            partial=partial,
            noise=noise,
            in_full=self.statistics.others or not self._hook.installed,
        )
        self.statistics.switched = self._clock.switched
        if layout != self._layout:
            self.forget()
        elif self._clock.action is Action.FULL:
            self._views.drop()
        elif self._clock.action is Action.REFRESH:
            self._views.start_refresh()
        elif not known:
            self._clock.compute()
        self._layout = layout
        self._network.begin(self._clock.index, in_force)
        self._shortened = False
        self._controls.watch(self._controls_ahead() if self._hook.installed else ())
        return self._clock.action

    def say(self, keys: Sequence[Hashable] | None) -> None:
        """Tell for which of the evaluation's rows the next U-Net call is, or that it is for none of them: None.

        A caller that says it once in a pass has to say it of every call; what nobody says is taken for somebody
        else's, unless it comes after all of the evaluation's rows.
        """
        self._says = True
        self._said = keys

    def _choose(self, x: Tensor, timesteps: Tensor | None) -> View | None:
        if self._clock.index < 0:
            return None
        first = self._rows.handed
        said, self._said = self._said, None
        keys = self._rows.next(x, said, must_say=self._says)
        timed = timesteps is not None and timesteps.numel() in {1, len(x)}
        times: PerRow = of_each_row(timesteps, x) if timesteps is not None and timed else 0.0
        if timed and self._clock.index < len(self._times):
            times = self._times[self._clock.index]
        self._call = call = Call(keys, x, times, timed)
        if len(keys) != len(x):
            self._give_up()
        if first == 0 and self._network.note():
            self._begin_anew()
        if self._views.note_blocks():
            self._settling.clear()
            self._clock.compute()
        self._clock.count_rows(self._rows.handed, first_call=first == 0)
        view = self._views.view_of(call, self._clock.action, owes=self._settling.owes(self._clock.index, call))
        if self._shortened and not (view is not None and view.reuses):
            raise RuntimeError(SHORTENED)
        self._shortened = False
        self._count(reused=view is not None and view.reuses, first_call=first == 0)
        return view

    def _will_reuse(self, x: Tensor) -> bool:
        """Tell whether the next call will reuse, whose input is as large as `x`, whichever rows it is for."""
        kept = self._clock.action is Action.REUSE and self._views.can_reuse()
        kept = kept and not (self._rows.handed == 0 and self._network.has_jumped)
        kept = kept and self._store.serves(self._rows.possible(x), x.shape[2:], x.device)
        self._shortened |= kept
        return kept

    def _give_up(self) -> None:
        """Compute everything in full from now on: the calls are for rows that nobody can tell."""
        self.statistics.others = True
        self._clock.leave_alone()
        self.forget()
        self._settling.count(self.statistics)

    def _begin_anew(self) -> None:
        """Make the evaluation in full, and the next one if a line needs two: the network has jumped."""
        self._clock.compute_anew()
        self.statistics.switched = self._clock.switched
        self.forget()

    def _count(self, *, reused: bool, first_call: bool) -> None:
        s = self.statistics
        s.calls_reused += reused
        s.calls_full += not reused
        s.missed += self._clock.meant is Action.REUSE and not reused
        if first_call:
            self._all_reused = True
            s.reused += 1
        if self._all_reused and not reused:
            self._all_reused = False
            s.reused -= 1
            s.full += 1

    def _done(self, view: View, output: Any) -> Any:
        call = self._call
        if call is None:
            return output
        self._views.leave(view)
        if view.reuses and not view.complete:
            self.forget()
            return output
        if view.reuses:
            return self._settling.of_reuse(self._clock.index, call, output)
        self.statistics.kept += self._store.keep(call, view.kept, output)
        return self._settling.of_full(self._clock.index, call, output, self.statistics)

    def _fail(self, error: Exception) -> None:
        if not self.statistics.error:
            self.statistics.error = f"caching stopped at an error, {of_error(error)}"
            logger.warning("DeepCache: %s", self.statistics.error, exc_info=error)
        self.remove()
        self._settling.count(self.statistics)
