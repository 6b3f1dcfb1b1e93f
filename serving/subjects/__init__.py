"""The subjects of all owners: kept on disk, learned one at a time in a process beside the engine."""
