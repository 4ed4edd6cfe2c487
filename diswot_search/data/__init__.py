"""Data sets, splits, labelled subsets, augmentation and the probe."""
