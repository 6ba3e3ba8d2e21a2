"""Whole jobs: they put engine, evaluation, deploy and report together into one run."""
