"""How hypothesis runs: without a limit on an example's wall time, which beside other work says nothing of the code."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
