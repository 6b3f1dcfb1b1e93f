"""How quickly the engine draws with many adapters: against itself on the bare base, and against diffusers."""

from serving.bench.run import BenchPlan, compare, run_bench
from serving.bench.sides import Sides
from serving.bench.traffic import POPULARITIES, Traffic, closed_loop, open_loop

__all__ = ["POPULARITIES", "BenchPlan", "Sides", "Traffic", "closed_loop", "compare", "open_loop", "run_bench"]
