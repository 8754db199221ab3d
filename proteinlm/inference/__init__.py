"""Using a trained model: embeddings, scores of variants, contact maps, predictions, for proteins from a FASTA file."""
