"""Students outside of PyTorch: export and quantisation."""
