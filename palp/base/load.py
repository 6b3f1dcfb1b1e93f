"""Loading a base from the package, the hub, a folder or one safetensors file."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palp.base.attention import fused, use_block_attention, written_out
from palp.base.base import Base, Shown
from palp.base.device import find_device, find_dtype, weights_dtype
from palp.base.families import Family, find
from palp.base.fingerprint import fingerprint
from palp.base.last_stages import shorten
from palp.base.schedule import NoiseSchedule
from palp.base.tokens import PromptEncoder
from palp.errors import BaseLoadError

ICONS_WEIGHTS = Path(__file__).parent / "icons" / "weights"
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
WRITTEN_OUT_LATENT_SIDE = 32
"""Up to this many latents a side, attention on a CPU is plain matrix products."""


def load_base(
    source: str = "icons", device: str | None = None, dtype: str | None = None, config: Path | None = None
) -> Base:
    """A frozen base, ready to train on and to sample from.

    Arguments:
        source: "icons" (in the package), a hub id, a diffusers folder, or a `.safetensors` checkpoint.
        device: "cpu", "cuda", …; by default CUDA where there is one.
        dtype: "float32", "bfloat16", "float16" or "auto". Auto is bfloat16 on CUDA (float16 where that is
            missing) and on CPUs with bfloat16 units, else float32. On CUDA weights have this type; on CPUs
            arithmetic is autocast, with linear layers and convolutions of the denoiser held in this type and
            all else in float32. The autoencoder is float32 everywhere.
        config: local folder with a diffusers pipeline's configuration, for a single file without network.

    Raises:
        BaseLoadError: nothing there, a pickle, or a kind of pipeline we do not know.
        InputError: an unknown dtype or device.
    """
    place = find_device(device)
    arithmetic = find_dtype(dtype or "auto", place)
    # Float16 is reached through float32, so that the fingerprint does not see its rounding.
    weights = weights_dtype(arithmetic, place)
    pipeline = _load_pipeline(source, torch.float32 if weights == torch.float16 else weights, config)
    name = "icons" if source == "icons" or _like_icons(pipeline.unet) else None
    return base_from_pipeline(pipeline, place, arithmetic, name)


def base_from_pipeline(pipeline: Any, device: torch.device, dtype: torch.dtype, name: str | None = None) -> Base:
    """A base from a diffusers pipeline in memory, which is moved, cast and frozen in place.

    Arguments:
        pipeline: its autoencoder best in float32, its other parts not in float16 (see `fingerprint`).
        device, dtype: as in `Base`.
        name: by default that of the family.

    Raises:
        BaseLoadError: a kind of pipeline, denoiser or scheduler we do not know.
    """
    family = _family("pipeline", pipeline.config)
    _check_unet(pipeline)
    weights = weights_dtype(dtype, device)
    name = name or family.name
    place, company = _how_shown(name)
    base = Base(
        name=name,
        fingerprint=f"{name}:{fingerprint(pipeline.unet)}",
        family=family,
        unet=_moved(pipeline.unet, device, weights),
        vae=_moved(pipeline.vae, device, torch.float32),
        encoders=_encoders(pipeline, device, weights),
        schedule=NoiseSchedule.from_config(pipeline.scheduler.config, device),
        scheduler_config=dict(pipeline.scheduler.config),
        device=device,
        dtype=dtype,
        place=place,
        company=company,
    )
    base.freeze()
    if base.weights_dtype != dtype:
        _hold(base.unet, dtype)
    few = device.type == "cpu" and max(base.latent_shape[1:]) <= WRITTEN_OUT_LATENT_SIDE
    use_block_attention(base.unet, written_out if few else fused)
    return base


def _how_shown(name: str) -> tuple[Callable[[Tensor], Tensor] | None, Callable[[Base, Tensor], Sequence[Shown]] | None]:
    """How the base of that name is best shown a subject: `place` and `company` of `Base`."""
    if name != "icons":
        return None, None
    from palp.base.icons.company import Company
    from palp.base.icons.placement import placed

    return placed, Company()


def _like_icons(unet: Any) -> bool:
    """Whether a denoiser is built as the embedded one, which `palp-hyper pretrain-base` trains more of."""
    path = ICONS_WEIGHTS / "unet" / "config.json"
    return path.is_file() and all(
        unet.config.get(name) == value for name, value in json.loads(path.read_text()).items() if name[0] != "_"
    )


def _check_unet(pipeline: Any) -> None:
    """Refuse denoisers that read more than a noisy picture: inpainting, depth, editing."""
    got, expected = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if got != expected:
        raise BaseLoadError(
            f"got a denoiser of {got} input channels, expected {expected} as its autoencoder; inpainting, "
            "depth and editing models are no bases, use the text-to-image model"
        )


def _load_pipeline(source: str, weights: torch.dtype, config: Path | None) -> Any:
    """The diffusers pipeline at `source`, its parts on the CPU, the autoencoder in float32."""
    path = ICONS_WEIGHTS if source == "icons" else Path(source).expanduser()
    if path.suffix.lower() in PICKLES:
        raise BaseLoadError(
            f"got {path.name}, a pickle that can run code when loaded, expected .safetensors; convert it"
        )
    if path.is_file():
        return _load_file(path, config)
    if source == "icons" and not path.is_dir():
        raise BaseLoadError(f"got no embedded base at {path}, expected its weights; reinstall the package")
    if not path.is_dir() and (path.suffix.lower() == ".safetensors" or not HUB_ID.fullmatch(source)):
        raise BaseLoadError(
            f"got base {source!r}, expected 'icons', a hub id such as 'owner/name', a diffusers folder or a "
            ".safetensors file; check the path"
        )
    return _load_folder(str(path) if path.is_dir() else source, weights)


def _load_folder(source: str, weights: torch.dtype) -> Any:
    """A pipeline in diffusers' own layout, local or on the hub; its kind is checked before the download."""
    from diffusers import DiffusionPipeline

    with _said_in_one_sentence(source):
        parts = DiffusionPipeline.load_config(source)
    with _said_in_one_sentence(source):
        pipeline = _pipeline_class(source, parts).from_pretrained(
            source,
            torch_dtype={"vae": torch.float32, "default": weights},
            use_safetensors=True,
            variant=_variant(Path(source)),
            **_unwanted(parts),
        )
        shorten(pipeline.vae, Path(source) / "vae")
    return pipeline


def _variant(folder: Path) -> str | None:
    """ "fp16" for a folder that holds its weights only under that name."""
    names = [path.name for path in folder.glob("unet/*.safetensors")]
    return "fp16" if names and all(".fp16." in name for name in names) else None


def _load_file(path: Path, config: Path | None) -> Any:
    """A single-file checkpoint in the original layout. Its keys tell the kind where no `config` does."""
    from diffusers import DiffusionPipeline
    from safetensors import safe_open

    if path.suffix.lower() != ".safetensors":
        raise BaseLoadError(f"got file {path.name}, expected a .safetensors checkpoint; give one or a folder")
    with _said_in_one_sentence(str(path)):
        if config is not None:
            parts = dict(DiffusionPipeline.load_config(str(config)))
        else:
            with safe_open(path, "pt") as file:
                xl = any(key.startswith("conditioner.") for key in file.keys())  # noqa: SIM118
            kind = "text_encoder_2" if xl else "safety_checker"
            parts = {"unet": [], "text_encoder": [], kind: []}
        return _pipeline_class(str(path), parts).from_single_file(
            str(path),
            config=None if config is None else str(config),
            local_files_only=config is not None,
            torch_dtype=torch.float32,
            **_unwanted(parts),
        )


def _family(source: str, parts: Mapping[str, Any]) -> Family:
    """The family of the pipeline with these parts."""
    family = find(parts)
    if family is None:
        raise BaseLoadError(
            f"got {source} holding a {parts.get('_class_name')}, expected an SD 1.x, SD 2.x or SDXL "
            "pipeline; use one of these"
        )
    return family


def _pipeline_class(source: str, parts: Mapping[str, Any]) -> Any:
    """The diffusers class for a pipeline with these parts."""
    import diffusers

    return getattr(diffusers, _family(source, parts).pipeline_class)


def _unwanted(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a pipeline that a base has no use for, as arguments that leave them out."""
    wanted_out = ("safety_checker", "feature_extractor", "image_encoder")
    leave_out: dict[str, Any] = {part: None for part in wanted_out if part in parts}
    return leave_out | ({"requires_safety_checker": False} if "safety_checker" in parts else {})


@contextmanager
def _said_in_one_sentence(source: str) -> Iterator[None]:
    """Errors of the libraries become one `BaseLoadError`; their notes about what is deprecated are dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "The `local_dir_use_symlinks`", UserWarning)
            yield
    except BaseLoadError:
        raise
    except Exception as error:  # whatever diffusers, transformers or safetensors raise on a damaged file
        if _hub_is_away(error):
            raise BaseLoadError(
                f"could not load base {source}: the hub does not answer; check the connection, or give a local folder, "
                "or for a single file the folder of its configuration (--base-config)"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseLoadError(
            f"could not load base {source}: {reason.rstrip('.')}; expected safetensors weights and "
            "configuration of an SD 1.x, SD 2.x or SDXL pipeline"
        ) from error


def _hub_is_away(error: BaseException | None) -> bool:
    """Whether an error comes of a file that is not here, and a hub that does not answer."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while error is not None and not isinstance(error, LocalEntryNotFoundError):
        error = error.__cause__ or error.__context__
    return error is not None


def _encoders(pipeline: Any, place: torch.device, weights: torch.dtype) -> dict[str, PromptEncoder]:
    pairs = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    return {
        name: PromptEncoder(name, getattr(pipeline, tokenizer), _moved(getattr(pipeline, name), place, weights))
        for name, tokenizer in pairs.items()
        if getattr(pipeline, name, None) is not None
    }


def _moved(module: Any, place: torch.device, dtype: torch.dtype) -> Any:
    """`module` on `place` in `dtype`; diffusers grumbles at a cast, even one to the same type."""
    return module.to(place) if module.dtype == dtype else module.to(place, dtype)


def _hold(unet: nn.Module, dtype: torch.dtype) -> None:
    """Keep what autocast would cast at every call, as it does for frozen weights, in the type that it casts to."""
    for module in unet.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
