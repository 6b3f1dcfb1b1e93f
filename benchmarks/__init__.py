"""How fast the parts are, each against its peer in the same run."""
