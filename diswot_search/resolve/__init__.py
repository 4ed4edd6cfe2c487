"""From what a user gave to what is meant."""
