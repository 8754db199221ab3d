"""The backbones that ProteinLM is compared with, each a drop-in for it: packed proteins in, states out. Pure PyTorch."""
