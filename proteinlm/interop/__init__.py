"""Weights of other systems, in and out: ProteinLM's Megatron checkpoints, and Hugging Face's directories."""
