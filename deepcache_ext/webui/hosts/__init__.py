"""The host: one small interface, and what implements it for each kind of WebUI."""

from __future__ import annotations

from deepcache_ext.webui.hosts.a1111 import A1111
from deepcache_ext.webui.hosts.host import Host

host: Host = A1111()
"""The one that this process is."""
