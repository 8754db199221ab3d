"""Everything that knows Lightning's Trainer: the stages, their callbacks and strategies."""
