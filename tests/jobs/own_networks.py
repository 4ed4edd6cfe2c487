"""The text of a file with a network of a user's own, to which tests add others."""

SMALL = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(4, num_classes)

    def forward(self, images):
        return self.fc(self.body(images))
"""
