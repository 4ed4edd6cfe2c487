"""Contracts that a user's own space, proxy, distiller or algorithm inherits."""
