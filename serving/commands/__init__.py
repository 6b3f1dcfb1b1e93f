"""The commands of `palp-serve`, one module each; heavy imports are inside the functions."""
