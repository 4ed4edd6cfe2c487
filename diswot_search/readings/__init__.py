"""Readings: values that are read off one network on one probe, with each pass run once."""
