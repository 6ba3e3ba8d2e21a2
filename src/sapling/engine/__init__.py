"""Trains members on the same batches and the same teacher outputs, and nothing else."""
