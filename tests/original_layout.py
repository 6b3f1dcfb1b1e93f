"""A diffusers SD 1.x pipeline written as the original single file: names as CompVis' code has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

UNET_PARTS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_PARTS = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "conv_shortcut": "nin_shortcut",
}


def save_original(pipeline: Any, path: Path) -> Path:
    """Write denoiser, autoencoder and text encoder of `pipeline` to one file."""
    depth, layers = len(pipeline.vae.decoder.up_blocks), pipeline.unet.config.layers_per_block
    tensors: dict[str, Tensor] = {}
    for name, tensor in pipeline.unet.state_dict().items():
        tensors["model.diffusion_model." + _unet_name(name, layers)] = tensor
    for name, tensor in pipeline.vae.state_dict().items():
        original = _vae_name(name, depth)
        is_convolution = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", original)
        tensors["first_stage_model." + original] = tensor[..., None, None] if is_convolution else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        inner = name.removeprefix("text_model.")
        tensors["cond_stage_model.transformer.text_model." + inner] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def _unet_name(name: str, layers: int) -> str:
    """Blocks are counted through: one entry a resnet (with its attention) and one a change of size."""
    stride = layers + 1
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        side, block, kind, layer, rest = found.groups()
        index = int(block) * stride + int(layer) + (1 if side == "down" else 0)
        where = f"{'input' if side == 'down' else 'output'}_blocks.{index}.{0 if kind == 'resnets' else 1}"
        return f"{where}.{_renamed(rest, UNET_RESNET) if kind == 'resnets' else rest}"
    if found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(found[1]) + 1) * stride}.0.op.{found[2]}"
    if found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
        return f"output_blocks.{int(found[1]) * stride + layers}.1.conv.{found[2]}"  # no attention in this block
    name = _renamed(name, UNET_PARTS)
    return _renamed(name, UNET_RESNET) if re.match(r"middle_block\.[02]", name) else name


def _vae_name(name: str, depth: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    if found := re.search(r"up_blocks\.(\d+)\.", name):  # the decoder is counted from the picture
        name = name.replace(found[0], f"up.{depth - 1 - int(found[1])}.")
    name = name.replace(".upsamplers.0.", ".upsample.")
    return _renamed(re.sub(r"(up\.\d+)\.resnets", r"\1.block", name), VAE_PARTS)


def _renamed(name: str, parts: dict[str, str]) -> str:
    """`name` with those of `parts` replaced that stand in it between dots."""
    for new, old in parts.items():
        name = re.sub(rf"(^|\.){re.escape(new)}\.", rf"\g<1>{old}.", name)
    return name
