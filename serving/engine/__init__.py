"""The engine: pictures of many callers in shared batches, each through its own slot of one adapter bank."""

from serving.engine.build import build_engine
from serving.engine.engine import BatchEngine
from serving.engine.predictions import Predictions
from serving.engine.settings import EngineSettings

__all__ = ["BatchEngine", "EngineSettings", "Predictions", "build_engine"]
