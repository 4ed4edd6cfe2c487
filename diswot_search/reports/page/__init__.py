"""Pages about runs: what is on a page, and its three forms, HTML, Markdown and JSON."""
