"""Proxies against known accuracies: statistics, store, plan and results."""
