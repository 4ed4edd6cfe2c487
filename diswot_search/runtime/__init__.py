"""Run folders, devices, seeds and interruptions."""
