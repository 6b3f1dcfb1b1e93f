"""The commands that `palp-hyper` gets from the hypernetwork, one module each."""
