"""One command for the first minutes on a new GPU: is everything right there, how fast is it, and does a model learn."""
