"""Trained models of related tasks: how near they are, and how much each counts."""
