"""A test-only extension: times all that the host calls of DeepCache, which it has loaded just before.

In the CPU time of the calling thread, so that what else the machine does counts less.
"""

import functools
import inspect
import time

from modules import script_callbacks, scripts, sd_samplers_common

seconds = {}
inside = []


def note(name, spent):
    seconds.setdefault(name, []).append(spent)


def timed(name, function):
    """Have a function's calls timed, those that it makes of other timed ones included."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if inside:
            return function(*args, **kwargs)
        inside.append(name)
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            note(name, time.thread_time() - start)
            inside.clear()

    return call


def time_sampling():
    """Time what stands around the sampler's own run."""
    original = sd_samplers_common.Sampler.launch_sampling

    def launch_sampling(sampler, steps, func):
        own = 0.0

        def run():
            nonlocal own
            start = time.thread_time()
            try:
                return func()
            finally:
                own = time.thread_time() - start

        start = time.thread_time()
        try:
            return original(sampler, steps, run)
        finally:
            note("launch_sampling", time.thread_time() - start - own)

    sd_samplers_common.Sampler.launch_sampling = launch_sampling


def time_deepcache():
    (ours,) = [data for data in scripts.scripts_data if data.script_class.__name__ == "DeepCacheScript"]
    for name, function in list(vars(ours.script_class).items()):
        if inspect.isfunction(function):
            setattr(ours.script_class, name, timed(name, function))
    for category, callbacks in script_callbacks.callback_map.items():
        for number, callback in enumerate(callbacks):
            if callback.script == ours.path:
                call = timed(category.removeprefix("callbacks_"), callback.callback)
                if isinstance(callback, tuple):  # Forge Classic's
                    callbacks[number] = callback._replace(callback=call)
                else:
                    callback.callback = call


def taken():
    """Return the seconds of every call since the last question, by the name of the function or the callback."""
    found = dict(seconds)
    seconds.clear()
    return found


time_deepcache()
time_sampling()
script_callbacks.on_app_started(lambda _demo, app: app.add_api_route("/e2e/seconds", taken, methods=["GET"]))
