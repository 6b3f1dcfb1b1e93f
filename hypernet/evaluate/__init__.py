"""Measuring what a hypernetwork predicts: against the corpus' own adapters, and against all that is simpler."""
