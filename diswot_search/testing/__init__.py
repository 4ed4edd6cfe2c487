"""Contracts: the tests that every part of a kind passes, ours or a user's.

A test file of your own inherits the contract of a kind and says how the part is made; pytest does the rest.

| part | contract |
|---|---|
| search space | `diswot_search.testing.spaces.SearchSpaceContract` |
| proxy | `diswot_search.testing.proxies.ProxyContract` |
| distiller | `diswot_search.testing.distillers.DistillerContract` |
| measure of transferability | `diswot_search.testing.measures.MeasureContract` |
| search algorithm | `diswot_search.testing.algorithms.AlgorithmContract` |
| executor | `diswot_search.testing.executors.ExecutorContract` |

Only this package needs pytest: `pip install 'diswot-search[testing]'`.
"""

try:
    import pytest
except ModuleNotFoundError as error:
    message = "diswot_search.testing needs pytest; install it with: pip install 'diswot-search[testing]'"
    raise ModuleNotFoundError(message, name=error.name) from error

_MODULES = ("algorithms", "distillers", "executors", "measures", "proxies", "spaces")

# An assertion that fails then shows its values, as it does in a test file.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))
