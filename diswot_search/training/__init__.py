"""One loop that trains a student, its task, metrics, checkpoints and results."""
