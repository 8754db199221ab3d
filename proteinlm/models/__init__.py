"""Backbones and heads in plain PyTorch: packed proteins in, states and scores out."""
