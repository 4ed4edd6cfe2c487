"""Where the items of a job are computed."""
