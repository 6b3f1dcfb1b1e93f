"""The `palp-hyper` command: the commands of `palp.cli`, to which the hypernetwork will add its `train`."""

from palp.cli import app

__all__ = ["app"]
