"""Distillers: losses on the features of a student and of its teacher."""

from . import distillers  # noqa: F401 - registers those that are built in
