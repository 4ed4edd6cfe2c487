"""A search in progress: evaluator, records, costs, algorithms and the study itself."""
