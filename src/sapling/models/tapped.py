"""A network that takes plain pixels and gives `Outputs`: logits, and the features that a method asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapling.bands import Bands, positions
from sapling.errors import ModelError, nearest
from sapling.models.load import Preprocess
from sapling.models.taps import CLASS_MAP, LAST_MAP, Place, Recorder, Trace, stage_modules
from sapling.types import Outputs

__all__ = ["TappedModel", "stage_modules"]


class TappedModel(nn.Module):
    """A network with its preprocessing inside and its taps outside.

    ``forward`` takes images ``[B,C,H,W]`` in [0,1], resizes them (bicubic, antialiased) where their size
    is not ``preprocess.img_size``, normalises them, and gives `Outputs`, always float32: ``logits [B,K]``
    and per tap ``[B,C,h,w]`` (channels first whatever the network uses), ``[B,T,D]`` or ``[B,D]``. Tokens are those of
    the patches, row by row: class token, distillation token and registers (timm's ``num_prefix_tokens``) are left out.

    Taps are ``stage1``..``stage4`` (see `stage_modules`), ``embedding`` (the input of the classifier), or
    the path of a module (its output). With ``.pre`` behind: the input of the activation that makes that
    output; where no activation makes it, the output itself, listed in ``taps_without_activation`` (a method finds
    that in ``PairInfo``). ``last_map`` is the map (or tokens) whose mean over the positions is the embedding, and
    ``class_map`` what the linear classifier says of each of its positions: its mean is the logits.

    A tap whose tensor is overwritten by a later in-place layer is copied when it is recorded, which a dry run
    finds out; if it happens later all the same, ``forward`` raises instead of giving wrong features.

    Args:
        model: a timm network.
        preprocess: input size, mean and standard deviation.
        taps: names of the features to record.
        bands: what the channels of the images are, where they may be more than the network's own: those of
            ``preprocess.bands`` are then taken out of them.

    Raises:
        ModelError: a tap is unknown or gives no single tensor, the network cannot read such images, or a band that
            it reads is not among ``bands``.
    """

    mean: Tensor
    std: Tensor
    chosen: Tensor | None

    def __init__(
        self, model: nn.Module, preprocess: Preprocess, taps: Sequence[str] = (), *, bands: Bands | None = None
    ) -> None:
        super().__init__()
        self.model, self.preprocess, self.bands = model, preprocess, bands
        self._num_given, picked = len(preprocess.mean), None
        if bands is not None and preprocess.bands is not None and bands != preprocess.bands:
            chosen = positions(preprocess.bands, bands)
            if chosen is None:
                raise ModelError(f"the network reads {preprocess.bands}; the images hold {bands}")
            self._num_given, picked = bands.num_channels, torch.tensor(chosen)
        parameter = next(model.parameters())
        self.register_buffer("chosen", picked if picked is None else picked.to(parameter.device), persistent=False)
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
            tensor = torch.tensor(values, dtype=torch.float32, device=parameter.device).view(1, -1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)
        self._is_frozen = False
        self._recorders: dict[str, Recorder] = {}
        self.taps_without_activation: tuple[str, ...] = ()
        self._recorders = {tap: self._listen(place) for tap, place in self._places(taps).items()}
        self._shapes = self._dry_run()

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tap name to shape without B."""
        return dict(self._shapes)

    @property
    def num_channels(self) -> int:
        """C of the images that it takes, which may be more than those of the network."""
        return self._num_given

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the features that are recorded."""
        return tuple(self._recorders)

    @property
    def places(self) -> dict[str, dict[str, str | int | bool]]:
        """Tap name to where a module's output is the feature: ``path``, ``call``, ``channels_last``.

        Taps at the input of a module are left out.
        """
        found = {tap: recorder.place for tap, recorder in self._recorders.items()}
        return {
            tap: {"path": place.path, "call": place.call, "channels_last": place.channels_last}
            for tap, place in found.items()
            if not place.at_input
        }

    @property
    def classifier_card(self) -> dict[str, Tensor] | None:
        """Copies of ``classifier.weight [K,D]`` and ``classifier.bias [K]`` (zeros if it has none).

        None where the classifier is no linear layer.
        """
        found = self._linear_classifier()
        if found is None:
            return None
        weight, bias = found
        return {
            "classifier.weight": weight.detach().float().clone(),
            "classifier.bias": bias.detach().float().clone(),
        }

    def freeze_backbone(self) -> None:
        """Let the classifier alone learn: all else loses its gradient and stays in eval mode, whatever `train` says."""
        self.model.requires_grad_(False)
        for head in self._classifiers():
            head.requires_grad_(True)
        self._is_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the frozen part of a network keeps its batch-norm statistics, so it stays in eval mode."""
        super().train(mode)
        if self._is_frozen:
            self.model.eval()
            for head in self._classifiers():
                head.train(mode)
        return self

    @property
    def half_size(self) -> int:
        """Side in pixels of images of half the size, which `forward` may be told to read."""
        return self.preprocess.img_size // 2

    def check_half_size(self) -> None:
        """Refuse a network that cannot read images of half the size, or whose taps have another shape then.

        Raises:
            ModelError: says which.
        """
        size, whole = self.half_size, self.shapes
        try:
            half = self._dry_run(size)
        except ModelError as error:
            raise ModelError(
                f"images of half the size (train.half_size_share): {error.what}",
                remedy="train.half_size_share 0, or a network that reads images of any size, such as a ResNet",
            ) from error
        for tap, shape in half.items():
            if shape != whole[tap]:
                raise ModelError(
                    f"images of half the size (train.half_size_share): tap {tap!r} is then {list(shape)}, "
                    f"and {list(whole[tap])} of whole ones",
                    remedy="train.half_size_share 0, or a method on logits or embeddings alone, such as dist",
                )

    def normalise(self, images: Tensor, img_size: int | None = None) -> Tensor:
        """Images ``[B,C,H,W]`` in [0,1] to what the network reads, of side ``img_size`` where it is given."""
        if images.dim() != 4 or images.shape[1] != self._num_given or not images.is_floating_point():
            raise ModelError(
                f"images are {images.dtype} of shape {list(images.shape)}",
                allowed=f"floating point [B,{self._num_given},H,W] in [0,1]",
            )
        size = img_size or self.preprocess.img_size
        images = images.float() if self.chosen is None else images.index_select(1, self.chosen).float()
        if images.shape[2:] != (size, size):
            images = resized(images, size)
        normalised: Tensor = (images - self.mean) / self.std
        return normalised.to(next(self.model.parameters()).dtype)

    def forward(self, images: Tensor, img_size: int | None = None) -> Outputs:
        """Logits and features of ``images`` (see the class), read at side ``img_size`` where it is given."""
        inputs = self.normalise(images, img_size)
        recorders = self._recorders
        for recorder in recorders.values():
            recorder.start()
        try:
            logits = self._logits(inputs)
            for tap, recorder in recorders.items():
                if recorder.was_overwritten:
                    raise ModelError(
                        f"tap {tap!r} was overwritten in place by a later layer",
                        where=recorder.place.path,
                        remedy="tap another module, or replace the layer that works in place",
                    )
            features = {tap: self._feature(tap, recorder, len(inputs)) for tap, recorder in recorders.items()}
        finally:
            for recorder in recorders.values():
                recorder.stop()
        return Outputs(logits.float(), features)

    def _logits(self, inputs: Tensor) -> Tensor:
        logits = self.model(inputs)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise ModelError("the network gives no logits [B,K]", remedy="a classifier of timm")
        return logits

    def _feature(self, tap: str, recorder: Recorder, num_images: int) -> Tensor:
        """Give what was recorded, as float32, maps channels first."""
        value, place = recorder.tensor, recorder.place
        if recorder.calls != place.num_calls or not isinstance(value, Tensor):
            what = "no tensor" if value is not None else "nothing"
            given = f"{recorder.calls} tensors" if recorder.calls > max(place.num_calls, 1) else what
            raise ModelError(
                f"tap {tap!r} gives {given} in one forward",
                where=place.path,
                allowed="a module that is called once and returns one tensor",
                remedy="another tap, or a method on logits, such as dist",
            )
        if value.dim() == 0 or len(value) != num_images:
            raise ModelError(
                f"tap {tap!r} gives {list(value.shape)} for {num_images} image(s): it has no row for each image",
                where=place.path,
                allowed="a module whose output is [B,..] (attention within windows is not)",
            )
        if place.channels_last:
            value = value.permute(0, 3, 1, 2)
        value = value[:, place.leading :] if place.leading else value
        if tap == CLASS_MAP:
            return self._classified(value)
        if place.is_embedding and value.dim() == 4:
            # [B,D,1,1] before a 1x1 convolution; a larger map where the classifier itself pools (SqueezeNet)
            value = value.flatten(1) if value.shape[2:] == (1, 1) else value.mean(dim=(2, 3))
        return value.float()

    def _linear_classifier(self) -> tuple[Tensor, Tensor] | None:
        """Weight ``[K,D]`` and bias ``[K]`` of the classifier, with their gradient; None where it is not linear."""
        head = self.model.get_submodule(self._classifier_path())
        weight = getattr(head, "weight", None)
        if isinstance(head, nn.Conv2d) and isinstance(weight, Tensor) and weight.shape[2:] == (1, 1):
            weight = weight.flatten(1)
        if not isinstance(head, (nn.Linear, nn.Conv2d)) or not isinstance(weight, Tensor) or weight.dim() != 2:
            return None
        return weight, head.bias if head.bias is not None else weight.new_zeros(weight.shape[0])

    def _classified(self, value: Tensor) -> Tensor:
        """What the classifier says of each position of ``[B,C,H,W]`` or ``[B,T,D]``, float32."""
        found = self._linear_classifier()
        if found is None:
            raise ModelError(
                f"tap {CLASS_MAP!r} needs a linear classifier, and that of {type(self.model).__name__} is none",
                remedy="another network, or a method on logits, such as dist",
            )
        weight, bias = found
        with torch.autocast(value.device.type, enabled=False):
            if value.dim() == 4:
                return F.conv2d(value.float(), weight.float()[:, :, None, None], bias.float())
            return F.linear(value.float(), weight.float(), bias.float())

    def _classifiers(self) -> tuple[nn.Module, ...]:
        # Distilled ViTs have two heads on two tokens; the first is the class token's.
        head = self.model.get_classifier()  # type: ignore[operator]
        return tuple(head) if isinstance(head, (tuple, list)) else (head,)

    def _classifier_path(self) -> str:
        head = self._classifiers()[0]
        for path, module in self.model.named_modules():
            if module is head:
                return str(path)
        raise ModelError("the network does not say which layer is its classifier")

    def _place(self, tap: str) -> Place:
        stages = stage_modules(self.model)
        if tap in stages:
            path, channels = stages[tap]
            return Place(path, channels=channels)
        if tap in ("embedding", LAST_MAP, CLASS_MAP):  # the maps are found from what becomes of them
            return Place(self._classifier_path(), at_input=True, is_embedding=True)
        paths = [path for path, _ in self.model.named_modules() if path]
        if tap not in paths:
            raise ModelError(
                f"there is no tap {tap!r}",
                where=type(self.model).__name__,
                allowed=", ".join([*stages, "embedding"])
                + f", each with .pre, {LAST_MAP}, {CLASS_MAP}, or the path of a module",
                remedy=nearest(tap, [*stages, "embedding", LAST_MAP, CLASS_MAP, *paths])
                or f"a path such as {paths[-1]!r}, or a method on logits, such as dist",
            )
        return Place(tap)

    def _listen(self, place: Place) -> Recorder:
        recorder = Recorder(place)
        module = self.model.get_submodule(place.path)
        if place.at_input:
            module.register_forward_pre_hook(recorder.at_input)
        else:
            module.register_forward_hook(recorder.at_output)
        return recorder

    def _places(self, taps: Sequence[str]) -> dict[str, Place]:
        """Where each tap sits; one forward tells what makes it, and how its map lies in memory."""
        averaged = (LAST_MAP, CLASS_MAP)
        wanted = {t: self._place(t if t.startswith(averaged) else t.removesuffix(".pre")) for t in dict.fromkeys(taps)}
        if not wanted:
            return {}
        trace, in_network = Trace(), getattr(self.model, "output_fmt", None) == "NHWC"
        path, channels = stage_modules(self.model).get("stage4", ("", None))
        is_there = path and path in dict(self.model.named_modules())
        last = {CLASS_MAP: Place(path, channels=channels)} if is_there else {}
        with self._one_image() as image, trace.listen(self.model, {*wanted.values(), *last.values()}):
            self._logits(self.normalise(image))
        places = {}
        for tap, place in wanted.items():
            if tap in averaged:
                places[tap] = self._averaged(tap, trace.averaged_into(place, last.get(tap)), place)
                continue
            before = trace.activation_before(place) if tap.endswith(".pre") else None
            if tap.endswith(".pre") and before is None:
                self.taps_without_activation += (tap,)
            lies_so = trace.is_channels_last(place, in_network=in_network)
            leading = trace.leading_tokens(place)
            places[tap] = replace(before or place, channels_last=lies_so, leading=leading)
        return places

    def _averaged(self, tap: str, found: Place | None, embedding: Place) -> Place:
        """Where the map lies whose mean the classifier reads; refused where none was found."""
        if found is None:
            raise ModelError(
                f"{type(self.model).__name__} has no {tap!r}: its classifier does not read the mean of a map",
                where=embedding.path,
                allowed="networks that average their last map, such as ResNet, MobileNetV2, EfficientNet or Swin",
                remedy="such a network, or a method that needs no such map (see sapling methods)",
            )
        return found

    def _dry_run(self, img_size: int | None = None) -> dict[str, tuple[int, ...]]:
        """Shapes by tap; taps that a later layer overwrites are switched to copies."""
        with self._one_image(img_size) as image:
            for recorder in self._recorders.values():
                recorder.start()
            self._logits(self.normalise(image, img_size))
            shapes = {}
            for tap, recorder in self._recorders.items():
                shapes[tap] = tuple(self._feature(tap, recorder, 1).shape[1:])
                if recorder.was_overwritten:
                    recorder.place = replace(recorder.place, copied=True)
        return shapes

    @contextlib.contextmanager
    def _one_image(self, img_size: int | None = None) -> Iterator[Tensor]:
        """Give a black image, in eval mode without gradient; modes are restored afterwards."""
        modes = {module: module.training for module in self.modules()}
        size = img_size or self.preprocess.img_size
        image = torch.zeros(1, self._num_given, size, size, device=self.mean.device)
        self.eval()
        try:
            with torch.no_grad():
                yield image
        except (RuntimeError, AssertionError, ValueError, ZeroDivisionError, IndexError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"{type(self.model).__name__} cannot read images of {list(image.shape[1:])}: {reason}",
                remedy="another img_size, or build the network for this number of channels",
            ) from error
        finally:
            for module, training in modes.items():
                module.training = training
            for recorder in self._recorders.values():
                recorder.stop()


def resized(images: Tensor, img_size: int) -> Tensor:
    """Images ``[B,C,H,W]`` in [0,1] at another side in pixels: bicubic, antialiased."""
    return F.interpolate(images, (img_size, img_size), mode="bicubic", antialias=True).clamp(0.0, 1.0)
