"""What a search uses unless it is told otherwise. Light, so that the command line can say it without importing more."""

DEFAULT_PROXY = "effective_capacity"
"""The score: it needs no teacher and works on every kind of network; see `proxies.capacity`."""
