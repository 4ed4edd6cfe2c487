"""Every option of every job, declared once."""
