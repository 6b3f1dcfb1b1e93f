"""Serving: many users' adapters on one frozen base, composed and sampled a batch at a time."""
