"""What a student becomes outside of PyTorch: exported and quantised."""
