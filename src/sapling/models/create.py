"""Make a network by name: ours, timm's, one of the hub, or one that was saved; and count what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from sapling.errors import ModelError
from sapling.models.build import (
    Origin,
    build_network,
    list_models,
    origin_of,
    public_name,
    resolve_name,
    seeded,
    set_origin,
    size_arguments,
)
from sapling.models.hub import fetch, fetch_url, unreachable
from sapling.models.load import is_model_path, load_model, weights_alone
from sapling.models.weights import read_weights

__all__ = ["count_macs", "count_parameters", "create_model", "list_models", "origin_of", "resolve_name"]


def create_model(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    img_size: int,
    pretrained: bool = False,
    seed: int | None = None,
) -> nn.Module:
    """Make a network for ``num_classes`` classes and images ``[B,in_chans,img_size,img_size]``.

    What its weights are is recorded: ``origin_of(model)``. In particular **a pretrained network has a fresh,
    random head** (``origin_of(model).head == "fresh"``): it is for fine-tuning and knows none of the classes.
    A saved network (a folder, ``local-dir:`` or ``hf-hub:``) keeps its head if that has ``num_classes``
    classes; if not, it is refused, unless ``pretrained=True`` asks for a fresh head.

    Args:
        name: ``cnn3``, a timm name with or without tag, ``torchvision:alexnet``, ``hf-hub:owner/name``, a folder of
            `save_model`, or weights alone as `load_model` takes them.
        num_classes: K, at least 2.
        in_chans: channels of the images; pretrained first layers are adapted by timm.
        img_size: side of the images in pixels; part of the network only where it is bound to a size.
        pretrained: start from published weights.
        seed: of the initial weights; the global generator is left alone. None draws from the global one.

    Raises:
        ModelError: the name is unknown, there are no weights, or the hub cannot be reached.
    """
    if is_model_path(name):
        return _from_checkpoint(name, num_classes, in_chans, img_size, fresh_head=pretrained, seed=seed)
    full = resolve_name(name)
    architecture = full.partition(".")[0]
    arguments = size_arguments(architecture, in_chans=in_chans, img_size=img_size)
    if not pretrained:
        model = build_network(architecture, num_classes=num_classes, arguments=arguments, seed=seed)
        set_origin(model, Origin(architecture, model_args=arguments))
        return model
    model = _pretrained(full, num_classes=num_classes, arguments=arguments, seed=seed)
    licence = timm.get_pretrained_cfg(full, allow_unregistered=True).license
    source = public_name(full)
    set_origin(model, Origin(architecture, "pretrained", "fresh", source, arguments, licence, source))
    return model


def count_parameters(model: nn.Module) -> int:
    """Count all parameters, trained or not; buffers (batch-norm statistics) do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the multiply-accumulates of one image of ``shape`` ``[C,H,W]`` through ``model``.

    Convention: one multiplication with its addition is one; convolutions, linear layers and the matrix
    products of attention count; biases, norms, activations and pooling do not. It is half of the FLOPs.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(model.parameters())
    images = torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype)
    was_training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    model.eval()
    try:
        # The plain kernel shows its matrix products to the counter; older torch does not know all fused ones.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(images)
    finally:
        for module, training in was_training.items():
            module.training = training
    return int(counter.get_total_flops()) // 2


def _from_checkpoint(
    name: str, num_classes: int, in_chans: int, img_size: int, *, fresh_head: bool, seed: int | None
) -> nn.Module:
    loaded = load_model(name, img_size=img_size) if weights_alone(name) else load_model(name)
    model, origin = loaded.model, origin_of(loaded.model)
    assert origin is not None
    if len(loaded.preprocess.mean) != in_chans:
        raise ModelError(
            f"this network reads images of {len(loaded.preprocess.mean)} channels, not {in_chans}", where=name
        )
    bound = origin.model_args.get("img_size")
    if bound is not None and bound not in (img_size, (img_size, img_size)):
        raise ModelError(
            f"this network is bound to images of {bound} pixels, not {img_size}",
            where=name,
            remedy=f"img_size={bound}",
        )
    if fresh_head:
        with seeded(seed):
            model.reset_classifier(num_classes)  # type: ignore[operator]
        set_origin(model, replace(origin, head="fresh"))
    elif len(loaded.classes) != num_classes:
        raise ModelError(
            f"this network was trained for {len(loaded.classes)} classes, not {num_classes}",
            where=name,
            remedy="pretrained=True keeps its body and gives it a fresh head, to be trained",
        )
    return model.train()


def _pretrained(full: str, *, num_classes: int, arguments: dict[str, Any], seed: int | None) -> nn.Module:
    """Make a network with published weights and a fresh head."""
    architecture, _, _ = full.partition(".")
    config = timm.get_pretrained_cfg(full, allow_unregistered=True)
    if config is None or not config.has_weights:
        raise ModelError(
            f"{public_name(architecture)} has no published weights",
            allowed="pretrained=False, or a network of `timm.list_pretrained()`",
            remedy=f"train it from random weights, or see: sapling models '{architecture[:6]}*'",
        )
    overlay: dict[str, Any] = {}
    if config.hf_hub_id:
        stored = config.hf_hub_filename or "pytorch_model.bin"
        filename = stored.replace("pytorch_model.bin", "model.safetensors")
        overlay["file"] = fetch(config.hf_hub_id, filename)
    elif config.url:
        # Read by our own reader: no version of timm then opens a pickle in its own way.
        overlay["state_dict"] = dict(read_weights(fetch_url(config.url)).tensors)
    try:
        with seeded(seed):
            model = timm.create_model(
                full, pretrained=True, num_classes=num_classes, pretrained_cfg_overlay=overlay, **arguments
            )
            # With the published number of classes timm would keep the published head: the same rule for all.
            model.reset_classifier(num_classes)
            model.pretrained_cfg.pop("state_dict", None)
    except OSError as error:
        raise unreachable(full, str(error)) from error
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the published weights of {full} do not fit {arguments or 'it'}: {reason}",
            remedy="pretrained=False, or another img_size or in_chans",
        ) from error
    assert isinstance(model, nn.Module)
    return model
