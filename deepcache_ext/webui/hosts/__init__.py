"""The host: one small interface, and what implements it for each kind of WebUI."""

from __future__ import annotations

import importlib.util

from deepcache_ext.webui.hosts.a1111 import A1111
from deepcache_ext.webui.hosts.forge import Forge
from deepcache_ext.webui.hosts.host import Host

host: Host = A1111() if importlib.util.find_spec("modules_forge") is None else Forge()
"""The one that this process is, told by what it has."""
