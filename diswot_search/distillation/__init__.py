"""Training a student: under a teacher, or alone."""
