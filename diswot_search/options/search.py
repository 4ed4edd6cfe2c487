"""Options of a search."""

from __future__ import annotations

DEFAULT_PROXY = "effective_capacity"
"""The score: it needs no teacher and works on every kind of network; see `proxies.capacity`."""
