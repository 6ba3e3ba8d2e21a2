"""Where taps sit in a network, what passes there, and in which order its layers run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

LAST_MAP, CLASS_MAP = "last_map", "class_map"
"""The map whose mean over the positions is the embedding, and what the classifier says of each of its positions."""
_ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, DropPath)  # in eval mode they hand on what they got


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tap sits: at the output or the input of a module.

    Attributes:
        path: of the module.
        at_input: before the module rather than behind it.
        is_embedding: the input of the classifier.
        channels: of the map, where ``feature_info`` tells.
        channels_last: the map arrives as ``[B,H,W,C]``.
        copied: a later layer overwrites the tensor, so that it is copied at once.
        call: number of the call that counts, from 0: one activation may serve a block several times.
        num_calls: calls in one forward.
        leading: tokens before those of the patches (class token, registers), which are left out.
    """

    path: str
    at_input: bool = False
    is_embedding: bool = False
    channels: int | None = None
    channels_last: bool = False
    copied: bool = False
    call: int = 0
    num_calls: int = 1
    leading: int = 0


class Recorder:
    """Keeps what passes at one place during a forward that listens.

    A later layer may overwrite the tensor (in-place activations do): its version counter tells.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.listens = False
        self.calls = 0
        self.tensor: Any = None
        self.version = -1

    def at_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Keep what goes into the module."""
        self._keep(inputs[0])

    def at_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what comes out of the module."""
        self._keep(output)

    def _keep(self, value: Any) -> None:
        if not self.listens:
            return
        self.calls += 1
        if self.calls != self.place.call + 1:
            return
        self.tensor = value.clone() if self.place.copied and isinstance(value, Tensor) else value
        # Compiled graphs are functional: nothing is overwritten there, and there is no counter to read.
        counts = isinstance(value, Tensor) and not torch.compiler.is_compiling() and not value.is_inference()
        self.version = self.tensor._version if counts else -1

    def start(self) -> None:
        """Listen to the next forward."""
        self.listens, self.calls, self.tensor, self.version = True, 0, None, -1

    def stop(self) -> None:
        """Listen no more, and keep nothing."""
        self.listens, self.tensor = False, None

    @property
    def was_overwritten(self) -> bool:
        """Whether a later layer wrote into what was kept."""
        return self.version >= 0 and bool(self.tensor._version != self.version)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer without sub-layers."""

    path: str
    module: nn.Module
    output: Any


class Trace:
    """The calls of all layers of a network in one forward, in order; keeps every tensor alive.

    Attributes:
        calls: in the order in which they ended.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._marks: dict[Place, tuple[int, Any]] = {}
        self._num_leading, self._num_patches = 0, 0

    @contextmanager
    def listen(self, model: nn.Module, places: Iterable[Place]) -> Iterator[None]:
        """Note the calls of a forward of ``model``, and what passes at ``places``."""
        handles = [
            module.register_forward_hook(self._noting(path))
            for path, module in model.named_modules()
            if not any(module.children()) and not isinstance(module, _PASSING)
        ]
        self._num_leading, embed = _leading_of(model)
        if embed is not None:
            handles.append(embed.register_forward_hook(self._count_patches))
        for place in places:
            module = model.get_submodule(place.path)
            if place.at_input:
                handles.append(module.register_forward_pre_hook(self._marking_input(place)))
            else:
                handles.append(module.register_forward_hook(self._marking_output(place)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def activation_before(self, place: Place) -> Place | None:
        """The input of the activation that makes what passes at ``place``; None where no activation makes it."""
        before, final = self._before(place)
        # The last layer whose output lies where that tensor lies; all are kept alive until here.
        for position in range(len(before) - 1, -1, -1):
            call = before[position]
            if not _is_same_memory(call.output, final):
                continue
            if type(call.module).__module__ not in _ACTIVATIONS:
                return None
            return Place(
                call.path,
                at_input=True,
                is_embedding=place.is_embedding,
                channels=place.channels,
                call=sum(other.path == call.path for other in before[:position]),
                num_calls=sum(other.path == call.path for other in self.calls),
            )
        return None

    def is_channels_last(self, place: Place, *, in_network: bool) -> bool:
        """Whether the map at ``place`` is ``[B,H,W,C]``, told by the last layer before it whose channels are known.

        Args:
            place: any place that was listened to.
            in_network: whether the network's own maps are; decides where the shape leaves it open.
        """
        before, value = self._before(place)
        if not isinstance(value, Tensor) or value.dim() != 4:
            return False
        first, last = value.shape[1], value.shape[3]
        if first == last:
            return in_network
        if place.channels in (first, last):
            return place.channels == last
        for call in reversed(before):
            channels = _channels_of(call.module)
            if channels is None:
                continue
            if isinstance(call.module, nn.Linear) or type(call.module).__name__ == "LayerNorm":
                return channels == last if channels in (first, last) else in_network
            # Behind a convolution only a network of such maps turns them round; others concatenate.
            return in_network and channels == last and channels != first
        return in_network

    def leading_tokens(self, place: Place) -> int:
        """How many of the tokens ``[B,T,D]`` at ``place`` come before those of the patches; 0 of what is no tokens.

        The network says how many it has; some put them there in their last blocks only.
        """
        return self._leading(self._before(place)[1])

    def averaged_into(self, place: Place, last: Place | None = None) -> Place | None:
        """The map or the tokens whose plain mean over the positions passes at ``place``; None where there is none.

        Told by the values: the last layer whose output has that mean. Earlier ones may have it, too, while blocks do
        nothing yet (their last norm starts at 0); what a pooling gives has one position and counts only if nothing else
        does. A mean that counts class token and registers, too, is that of no map.

        Args:
            place: of the embedding.
            last: where the network's last map passes, if what has one position is to count only where that has one,
                too: else it lies behind the mean, and the classifier reads what a layer made of that.
        """
        before, pooled = self._before(place)
        if not isinstance(pooled, Tensor) or pooled.dim() not in (2, 4):
            return None
        wanted = pooled if pooled.dim() == 2 else pooled.mean(dim=(2, 3))
        found: dict[bool, Place] = {}
        for number, call in enumerate(before):
            if not self._leading(call.output) and (form := _mean_over(call.output, wanted)) is not None:
                found[call.output.numel() > wanted.numel()] = Place(
                    call.path,
                    channels_last=form == "channels_last",
                    call=sum(other.path == call.path for other in before[:number]),
                    num_calls=sum(other.path == call.path for other in self.calls),
                )
        if True not in found and last is not None and self._has_positions(last):
            return None
        return found.get(True, found.get(False))

    def _has_positions(self, place: Place) -> bool:
        _, value = self._before(place)
        return isinstance(value, Tensor) and place.channels is not None and value[0].numel() > place.channels

    def _leading(self, value: Any) -> int:
        if not isinstance(value, Tensor) or value.dim() != 3:
            return 0
        return self._num_leading if value.shape[1] > self._num_leading and value.shape[1] != self._num_patches else 0

    def _before(self, place: Place) -> tuple[Sequence[Call], Any]:
        position, value = self._marks.get(place, (0, None))
        return self.calls[:position], value

    def _noting(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            self.calls.append(Call(path, module, output))

        return note

    def _count_patches(self, module: nn.Module, inputs: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, (tuple, list)) else output  # [B,T,D] or [B,h,w,D]
        self._num_patches = math.prod(tokens.shape[1:-1]) if isinstance(tokens, Tensor) else 0

    def _marking_output(self, place: Place) -> Callable[[nn.Module, Any, Any], None]:
        def mark(module: nn.Module, inputs: Any, output: Any) -> None:
            self._marks[place] = (len(self.calls), output)

        return mark

    def _marking_input(self, place: Place) -> Callable[[nn.Module, Any], None]:
        def mark(module: nn.Module, inputs: Any) -> None:
            self._marks[place] = (len(self.calls), inputs[0])

        return mark


def _is_same_memory(one: Any, two: Any) -> bool:
    """Whether two tensors are the same numbers at the same place (a view of another shape is)."""
    both = isinstance(one, Tensor) and isinstance(two, Tensor)
    return both and one.data_ptr() == two.data_ptr() and one.numel() == two.numel()


def _mean_over(output: Any, wanted: Tensor) -> str | None:
    """How a layer's output lies if its mean over the positions is ``wanted [B,D]``; None if that is not its mean."""
    forms = {3: (("tokens", (1,)),), 4: (("map", (2, 3)), ("channels_last", (1, 2)))}
    if isinstance(output, Tensor) and output.is_floating_point():
        for form, positions in forms.get(output.dim(), ()):
            mean = output.mean(dim=positions)
            close = 1e-4 * float(wanted.abs().max())
            if mean.shape == wanted.shape and torch.allclose(mean.to(wanted), wanted, rtol=0, atol=close):
                return form
    return None


def _leading_of(model: nn.Module) -> tuple[int, nn.Module | None]:
    """How many tokens a network puts before those of its patches, and what makes the patches, by timm's names."""
    for module in model.modules():
        if hasattr(module, "num_prefix_tokens"):
            embed = getattr(module, "patch_embed", None)
            return int(cast("int", module.num_prefix_tokens)), embed if isinstance(embed, nn.Module) else None
    return 0, None


def _channels_of(module: nn.Module) -> int | None:
    """Channels that a layer gives, where that can be read off it."""
    for name in ("out_channels", "out_features", "num_channels", "num_features"):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if shape is not None else None


def stage_modules(model: nn.Module) -> dict[str, tuple[str, int | None]]:
    """Aliases ``stage1``..``stage4`` of ``model``: module path and channels, from timm's ``feature_info``.

    They are the last four maps of a pyramid; a network with three maps has ``stage2``..``stage4``, so that
    ``stage4`` is always the last. A network of equal blocks (a plain ViT) gives those at 1/4, 1/2, 3/4 and 1.
    """
    info = getattr(model, "feature_info", None)
    entries: list[dict[str, Any]] = list(getattr(info, "info", info) or [])
    there = {path for path, _ in model.named_modules()}  # some list modules that they do not have (Twins)
    entries = [entry for entry in entries if entry.get("module") in there]
    if len(entries) > 4 and len({entry["reduction"] for entry in entries}) == 1:
        entries = [entries[math.ceil(len(entries) * quarter / 4) - 1] for quarter in (1, 2, 3, 4)]
    entries = entries[-4:]
    first = 5 - len(entries)
    return {f"stage{first + i}": (entry["module"], entry.get("num_chs")) for i, entry in enumerate(entries)}
