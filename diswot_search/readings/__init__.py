"""Readings of one network on one probe. Each pass runs at most once."""
