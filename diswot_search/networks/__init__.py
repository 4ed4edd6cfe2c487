"""One noun for student, teacher and source, and one reader of networks."""
