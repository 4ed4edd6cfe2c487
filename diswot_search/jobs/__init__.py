"""The jobs that a user starts: search, compare, train, distill, rank_sources, run."""
