"""Dividing a model among processes, in PyTorch alone; the model does not know."""
