"""A stand-in for the part of the host that the adapter touches; `tests/webui/contract.py` holds it to the real one."""
