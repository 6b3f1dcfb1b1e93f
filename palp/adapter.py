"""The adapter: what training makes, what the hypernetwork predicts, what serving composes.

A LoRA pair for every site of a base, and the learned words. For a site with frozen weight W,
y = (W + ΔW) x with ΔW = alpha / rank · B A.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from palp.errors import AdapterMismatchError, InputError

__all__ = ["Adapter", "AdapterSpec", "Site", "check_placeholder", "widest"]

PLACEHOLDER = re.compile(r"\[[A-Za-z0-9_-]{1,64}\]")
TEXT_ENCODER = re.compile(r"text_encoder(_\d+)?")


def check_placeholder(word: str) -> str:
    """Return the word if it can be a placeholder such as [V] or [my-cat].

    Raises:
        InputError: it is not letters, digits, "-" and "_" in square brackets.
    """
    if not PLACEHOLDER.fullmatch(word):
        raise InputError(
            f"{word!r} cannot be a placeholder: use up to 64 letters, digits, '-' or '_' "
            "in square brackets, such as [V]"
        )
    return word


@dataclass(frozen=True)
class Site:
    """One linear layer that LoRA changes; the name is the one in the denoiser's `named_modules()`."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class AdapterSpec:
    """What adapters must share to stand in one bank.

    Args:
        base: fingerprint of the base, such as "icons:3fa9…".
        sites: the layers with a LoRA pair.
        rank: columns of B and rows of A, the same at every site.
        alpha: ΔW = alpha / rank · B A.
        dtype: of the stored tensors, a torch name; it may differ within a bank.
    """

    base: str
    sites: tuple[Site, ...]
    rank: int
    alpha: float
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < float("inf"):
            raise InputError(f"rank {self.rank} and alpha {self.alpha} were given: both must be above zero")
        if self.dtype not in ("float32", "float16", "bfloat16"):
            raise InputError(f"adapters are float32, float16 or bfloat16, not {self.dtype!r}")
        if len({site.name for site in self.sites}) < len(self.sites) or not self.sites:
            names = [site.name for site in self.sites]
            raise InputError(f"an adapter needs sites, each named once, not {names}")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @property
    def torch_dtype(self) -> torch.dtype:
        """The stored tensors' type."""
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def check(self, other: AdapterSpec) -> None:
        """Raise AdapterMismatchError, naming both sides, unless all but dtype is equal."""
        for name in ("base", "rank", "alpha"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise AdapterMismatchError(
                    f"an adapter with {name} {theirs} was given where {name} {mine} is needed: "
                    "use adapters of one recipe"
                )
        _check_sites(set(self.sites), set(other.sites))


def widest(adapters: Iterable[Adapter]) -> str:
    """The type that holds the values of all of them."""
    dtype = reduce(torch.promote_types, [adapter.spec.torch_dtype for adapter in adapters])
    return str(dtype).removeprefix("torch.")


def _check_sites(needed: set[Site], given: set[Site]) -> None:
    if odd := sorted(needed ^ given, key=lambda site: site.name):
        side = "is given" if odd[0] in given else "is needed"
        raise AdapterMismatchError(
            f"an adapter with {len(given)} sites was given where {len(needed)} are needed, and they differ: "
            f"only on one side, {odd[0]} {side}"
        )


@dataclass(eq=False)
class Adapter:
    """LoRA pairs for every site of the spec, and the learned words.

    Args:
        spec: sites, rank, alpha, base.
        down: A of each site, [rank in].
        up: B of each site, [out rank].
        placeholders: word → text encoder → embeddings, [vectors dim].
        metadata: class word, prompt, recipe: free text, kept in the file's header.

    Raises:
        AdapterMismatchError: the tensors are not those that the spec names.
    """

    spec: AdapterSpec
    down: dict[str, Float[Tensor, "rank in"]]
    up: dict[str, Float[Tensor, "out rank"]]
    placeholders: dict[str, dict[str, Float[Tensor, "vectors dim"]]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word, encoders in self.placeholders.items():
            check_placeholder(word)
            if not encoders or not all(TEXT_ENCODER.fullmatch(name) for name in encoders):
                raise InputError(f"{word} is for {sorted(encoders)}, not for text_encoder, text_encoder_2, …")
        for name, tensors in (("down", self.down), ("up", self.up)):
            if odd := sorted(tensors.keys() ^ {site.name for site in self.spec.sites}):
                raise AdapterMismatchError(f"`{name}` and the spec differ: {odd[0]} is in one of them only")
        for site in self.spec.sites:
            got = [tuple(self.down[site.name].shape), tuple(self.up[site.name].shape)]
            needed = [(self.spec.rank, site.in_features), (site.out_features, self.spec.rank)]
            if got != needed:
                raise AdapterMismatchError(f"A and B at {site.name} have shapes {got}, not {needed}")

    def delta_weight(self, site: str) -> Float[Tensor, "out in"]:
        """ΔW = alpha / rank · B A of a site, float32, differentiable."""
        return self.spec.scale * (self.up[site].float() @ self.down[site].float())

    def norms(self) -> dict[str, float]:
        """‖ΔW‖ (Frobenius) of each site, from the two rank × rank Gram matrices: ‖BA‖² = ⟨BᵀB, AAᵀ⟩."""
        return {site.name: self._norm(site.name) for site in self.spec.sites}

    def _norm(self, site: str) -> float:
        down, up = self.down[site].detach().double(), self.up[site].detach().double()
        return self.spec.scale * float(((up.mT @ up) * (down @ down.mT)).sum().clamp(min=0).sqrt())

    def scaled(self, factor: float) -> Adapter:
        """A copy whose every ΔW is `factor` times as large; the factor goes into B, the words stay."""
        return replace(self, up={site: factor * up for site, up in self.up.items()})

    def concat(self, other: Adapter, scale_self: float = 1.0, scale_other: float = 1.0) -> Adapter:
        """The exact sum, by rank concatenation: ΔW = scale_self · ΔW_self + scale_other · ΔW_other.

        Args:
            other: for the same base and sites, of any rank and alpha.

        Returns:
            Rank is the sum of both, alpha equals rank; metadata is what both agree on.

        Raises:
            AdapterMismatchError: the base or the sites differ.
            InputError: both have learned the same placeholder, differently.
        """
        rank = self.spec.rank + other.spec.rank
        if self.spec.base != other.spec.base:
            raise AdapterMismatchError(f"an adapter for {other.spec.base} cannot be added to one for {self.spec.base}")
        _check_sites(set(self.spec.sites), set(other.spec.sites))
        left, right = scale_self * self.spec.scale, scale_other * other.spec.scale
        return Adapter(
            replace(self.spec, rank=rank, alpha=float(rank), dtype=widest([self, other])),
            {site: torch.cat([down, other.down[site]]) for site, down in self.down.items()},
            {site: torch.cat([left * up, right * other.up[site]], dim=1) for site, up in self.up.items()},
            _union(self.placeholders, other.placeholders),
            {key: text for key, text in self.metadata.items() if other.metadata.get(key) == text},
        )

    def check(self, base: str, sites: Sequence[Site]) -> None:
        """Raise AdapterMismatchError, naming both sides, unless it was made for this base.

        Args:
            base: the base's fingerprint.
            sites: every layer of the base that may have an adapter; this one may have fewer.
        """
        if self.spec.base != base:
            raise AdapterMismatchError(
                f"the adapter was made for {self.spec.base}, and the base at hand is {base}: "
                "load the adapter's own base"
            )
        there = {site.name: site for site in sites}
        for site in self.spec.sites:
            if there.get(site.name) != site:
                raise AdapterMismatchError(
                    f"the adapter changes {site}, and the base at hand has {there.get(site.name)} there"
                )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically, which plain diffusers reads with `load_lora_weights`.

        Raises:
            AdapterFileError: a value is not finite in the spec's dtype.
            OutputError: the file could not be written; an older one is as it was.
        """
        from palp.adapter_file import write

        write(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Adapter:
        """Read a file of `save`; only safetensors are read, on the CPU.

        Raises:
            AdapterFileError: missing, another format, damaged, another version, or values that are not
                finite.
        """
        from palp.adapter_file import read

        return cls(*read(Path(path)))

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> Adapter:
        """Read the content of a file of `save`; `name` says in errors where it is from.

        Raises:
            AdapterFileError: as `load`.
        """
        from palp.adapter_file import parse

        return cls(*parse(content, Path(name)))

    def export_embeddings(self, folder: str | Path) -> dict[str, Path]:
        """Write one safetensors file a placeholder, for diffusers' `load_textual_inversion`.

        With one text encoder the key is the word, and `load_textual_inversion(file)` is enough. With two
        (SDXL) the keys are clip_l and clip_g, and each is loaded with its own encoder and tokenizer.

        Returns:
            The file of each word: [V] is in `folder/V.safetensors`.

        Raises:
            OutputError: a file could not be written.
        """
        from palp.adapter_file import export

        return export(self.placeholders, Path(folder))


def _union(
    left: Mapping[str, dict[str, Tensor]], right: Mapping[str, dict[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    for word in left.keys() & right.keys():
        mine, theirs = left[word], right[word]
        same = mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        if not same:
            raise InputError(f"both adapters have learned {word}, and not the same: rename it in one of them")
    return {**left, **right}
