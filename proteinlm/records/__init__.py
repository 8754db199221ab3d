"""What a run leaves behind: results, predictions, contact maps, and their intervals. Imports no torch."""
