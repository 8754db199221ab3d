"""What can be learnt: pretraining and the downstream tasks, all on one backbone."""
