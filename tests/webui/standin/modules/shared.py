"""Options and the state of the running job."""

import time
from types import SimpleNamespace


class State:
    time_start = None
    job = ""
    job_no = job_count = 0
    interrupted = skipped = False

    def begin(self, job="(unknown)"):
        self.job = job
        self.time_start = time.time()

    def end(self):
        self.job = ""


opts = SimpleNamespace(img2img_fix_steps=False, s_min_uncond_all=False, always_discard_next_to_last_sigma=False)
state = State()
