"""The hypernetwork that predicts a prompt's adapter, so that a new prompt needs no training."""
