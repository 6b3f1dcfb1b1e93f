"""palp-hyper: personalised text-to-image adapters that keep to their prompt."""
