"""What is particular to GPUs: what XLA makes of a program for one, without one at hand."""
