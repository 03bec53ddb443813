#!/usr/bin/env bash
# A forward hook with always_call=True is not called when the forward is interrupted.
#
# Version:   torch 2.13.0.
# Guess:     always_call works like finally: what the hook tidies up is tidied up however the forward ends.
# Behaviour: It works like `except Exception`. KeyboardInterrupt, SystemExit and every other exception that derives from
#            BaseException alone, which hosts use to stop a sampling run, leave the module without the hook being
#            called. What a pre-hook exchanged stays exchanged.
# Output seen:
#     ValueError         hook called: True
#     KeyboardInterrupt  hook called: False
#     SystemExit         hook called: False
#     Stop               hook called: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check torch==2.13.0 numpy==1.26.4
venv/bin/python -W ignore - <<'END'
import sys

import torch


class Stop(BaseException):
    """As a host may define it to end a run from inside."""


class Failing(torch.nn.Module):
    def forward(self, error):
        raise error


seen = []
for error in (ValueError(), KeyboardInterrupt(), SystemExit(), Stop()):
    module, calls = Failing(), []
    module.register_forward_hook(lambda *args: calls.append(args), always_call=True)
    try:
        module(error)
    except BaseException:
        pass
    seen.append(bool(calls))
    print(f"{type(error).__name__:<17}  hook called: {bool(calls)}")
sys.exit(0 if seen == [True, False, False, False] else "this has changed")
END
