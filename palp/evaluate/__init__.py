"""Measuring what the trained parts do: intervals, metrics, tables."""
