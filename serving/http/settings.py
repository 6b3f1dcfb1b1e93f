"""What the server allows, and where it listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from palp.errors import InputError

__all__ = ["HttpSettings"]

MIB = 1024 * 1024


@dataclass(frozen=True)
class HttpSettings:
    """Limits are for each key, or for everybody where there are no keys.

    Args:
        base: the name of the bare base in /v1/models.
        host, port: where to listen; port 0 is any free one.
        keys: file of keys, made by `palp-serve new-key`; without one there is a single user, and no check.
        max_json_bytes, max_upload_bytes: of a request's body.
        max_files: pictures of a subject.
        max_pixels: of a picture of a subject.
        max_side: pixels of a drawn picture's side; the base's own size is enlarged to what is asked for.
        max_n: pictures of a request.
        max_steps, max_refine: of a picture.
        max_priority: what a caller may raise a request to.
        max_active: pictures waiting or being drawn at once.
        max_uploads: uploads at once.
        max_subjects: subjects kept.
        head_timeout_s: seconds from a connection, or a later request's first byte, to the end of the request's head.
        body_timeout_s: seconds from a request's head to the end of its body.
        deadline_s: seconds from a request to its picture.
        drain_s: seconds that accepted requests have left when the server is told to stop.
        retry_after_s: seconds after which one who met a limit may try again.
        log_prompts: write prompts into the log too.

    Raises:
        InputError: a limit below its least.
    """

    base: str = "icons"
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    max_json_bytes: int = MIB // 4
    max_upload_bytes: int = 32 * MIB
    max_files: int = 20
    max_pixels: int = 24_000_000
    max_side: int = 2048
    max_n: int = 8
    max_steps: int = 150
    max_refine: int = 50
    max_priority: int = 0
    max_active: int = 16
    max_uploads: int = 2
    max_subjects: int = 100
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    deadline_s: float = 300.0
    drain_s: float = 60.0
    retry_after_s: float = 2.0
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 1 if name.endswith(("bytes", "files", "pixels", "side", "_n", "steps", "active", "uploads")) else 0
            if isinstance(value, int | float) and not isinstance(value, bool) and value < least:
                raise InputError(f"{name} is {value}, and must be {least} or more")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
