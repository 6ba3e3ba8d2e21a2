"""From the packed store to batches: order by (seed, epoch), a view of each image, float on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sapling.data.leaks import Leaks
from sapling.data.mixing import draw_mix, mix_images, mix_probabilities, mix_targets
from sapling.data.mixspec import MixSpec
from sapling.data.packed import PackedStore
from sapling.data.reuse import source_location
from sapling.data.sampling import balanced_order
from sapling.data.sources import Source
from sapling.data.splits import PARTS, Split
from sapling.data.views import CENTRE_VIEW, ViewSpec, centre_view, hash_number, make_views
from sapling.data.viewspec import preset
from sapling.data.workspace import moved
from sapling.errors import ConfigError
from sapling.types import Batch

Part = Literal["train", "val", "test"]
_REPEAT_BITS = 42  # above all epochs and offsets of seeds, see Dataset.view_number


@dataclass
class Dataset:
    """Images, split and views, ready to be iterated.

    Attributes:
        source: where the images come from.
        store: their pixels.
        split: which are for what.
        img_size: side of the views in pixels.
        views: name of the preset.
        spec: what views are made of.
        view_seed: seed of the views; it belongs to the data, not to a training.
        num_views: V, views per image; 0 means a fresh one every epoch.
        native: median short side of the original pictures.
        view_options: single settings that were changed in the preset.
        mix: how images of a training batch are mixed.
        leaks: what the check of the split found; None where nobody looked.
        sample_power: None shows every training image once an epoch; else rare classes are drawn more often, see
            :func:`sapling.data.sampling.balanced_order`.
    """

    source: Source
    store: PackedStore
    split: Split
    img_size: int
    views: str
    spec: ViewSpec
    view_seed: int = 0
    num_views: int = 0
    native: int = 0
    view_options: Mapping[str, Any] = field(default_factory=dict)
    mix: MixSpec = field(default_factory=MixSpec)
    leaks: Leaks | None = None
    sample_power: float | None = None

    def seen_as(self, *, views: str | None = None, mixup: float | None = None, cutmix: float | None = None) -> Dataset:
        """The same images in the same split, with other views or mixing in training; None leaves what there is.

        Raises:
            ConfigError: no such preset, or one that needs colours where there are none.
        """
        spec, options = self.spec, self.view_options
        if views is not None and views != self.views:
            spec, options = preset(views), {}
            spec.check_channels(self.num_channels)
        wanted = {k: v for k, v in (("mixup", mixup), ("cutmix", cutmix)) if v is not None}
        mix = replace(self.mix, **wanted)
        return replace(self, views=views or self.views, spec=spec, view_options=options, mix=mix)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.source.classes

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.source.classes)

    @property
    def num_channels(self) -> int:
        """C."""
        return self.store.num_channels

    @cached_property
    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training part, of pixels in [0,1]."""
        total, squares, count = 0, 0, 0
        chunks = max(len(self.split.train) // 256, 1)
        for chunk in np.array_split(np.sort(self.split.train), chunks):
            # Whole numbers, so that the sums are exact in any order.
            pixels = np.asarray(self.store.images[chunk]).reshape(-1, self.num_channels)
            total = total + pixels.sum(axis=0, dtype=np.int64)
            squares = squares + np.square(pixels, dtype=np.int64).sum(axis=0)
            count += len(pixels)
        mean = np.asarray(total) / (255 * count)
        spread = np.sqrt(np.maximum(np.asarray(squares) / (255 * 255 * count) - mean**2, 0))
        # A band that is the same everywhere must not be divided by nothing.
        return tuple(mean.tolist()), tuple(np.maximum(spread, 1 / 255).tolist())

    def labels(self, split: Part) -> npt.NDArray[np.int64]:
        """``[n]``: labels of a split, in the order of :meth:`eval_batches`; see :attr:`Item.label`."""
        return self.store.labels[self.split.part(split)]

    def truth(self, split: Part) -> npt.NDArray[np.int64]:
        """``[n]`` labels of a split, or ``[n,K]`` 0 and 1 where an image may have several labels."""
        if self.store.targets is None:
            return self.labels(split)
        return self.store.targets[self.split.part(split)].astype(np.int64)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.store.targets is not None

    def num_batches(self, batch_size: int) -> int:
        """Training batches in an epoch; the images of an incomplete last batch wait for another epoch.

        Raises:
            ConfigError: not even one batch is full.
        """
        if not 1 <= batch_size <= len(self.split.train):
            raise ConfigError(
                f"the batch size is {batch_size}",
                allowed=f"1 to {len(self.split.train)}, the number of training images",
            )
        return len(self.split.train) // batch_size

    def view_number(self, epoch: int, seed: int) -> int:
        """Tell the view that every training image shows in an epoch.

        With V views: ``(epoch + offset) % V``, the offset from the seed. With V = 0 a number that neither
        another epoch nor, but for a chance of about 1 in 10^9, another seed shows.
        """
        offset = hash_number(seed) >> 24
        return (epoch + offset) % self.num_views if self.num_views else epoch + offset

    def train_batches(
        self,
        epoch: int,
        *,
        batch_size: int,
        seed: int,
        device: str | torch.device = "cpu",
        channels_last: bool = True,
    ) -> Iterator[Batch]:
        """One epoch of training images in the order of (seed, epoch), the incomplete last batch left out.

        Where images are mixed, batches have targets beside the labels, which are those before the mix. Where an image
        may have several labels, they have targets and no labels.

        Args:
            epoch: number of the epoch, from 0.
            batch_size: B.
            seed: the training's seed, 0 or more.
            device: where batches are made.
            channels_last: memory format of the images; their values are the same in both.

        Raises:
            ConfigError: the seed is negative, or the batch larger than the training part.
        """
        num_batches = self.num_batches(batch_size)
        if seed < 0 or epoch < 0:
            raise ConfigError(f"seed is {seed} and epoch {epoch}", allowed="0 or more")
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
        view = self.view_number(epoch, seed)
        if self.sample_power is None:
            order, views = generator.permutation(self.split.train), np.full(len(self.split.train), view)
        else:
            positions, repeats = balanced_order(self.labels("train"), generator, self.sample_power)
            # An image that an epoch draws again shows another view: one that no other epoch shows where V = 0.
            order = self.split.train[positions]
            views = (view + repeats) % self.num_views if self.num_views else view + (repeats << _REPEAT_BITS)
        chunks = (slice(k * batch_size, (k + 1) * batch_size) for k in range(num_batches))
        batches = (self._batch(order[c], views[c], torch.device(device), channels_last) for c in chunks)
        if not self.mix.is_on:
            return batches
        return (self._mixed(batch, seed, epoch, number) for number, batch in enumerate(batches))

    def _mixed(self, batch: Batch, seed: int, epoch: int, number: int) -> Batch:
        rows, device = batch.on_cpu()[0].numpy(), batch.images.device
        mix = draw_mix(self.mix, seed=seed, epoch=epoch, number=number, batch=len(rows), img_size=self.img_size)
        if self.store.targets is not None:
            targets = mix_probabilities(torch.from_numpy(self.store.targets[rows].astype(np.float32)), mix)
        else:
            targets = mix_targets(torch.from_numpy(self.store.labels[rows]), mix, self.num_classes)
        there = mix.to(device)
        images = mix_images(batch.images, there)
        return replace(batch, images=images, targets=moved(targets, device), shares=there.share)

    def eval_batches(
        self,
        split: Part,
        *,
        batch_size: int,
        device: str | torch.device = "cpu",
        channels_last: bool = True,
    ) -> Iterator[Batch]:
        """All images of a split in order, each as its centre view (view number -1)."""
        indices = self.split.part(split)
        if batch_size < 1:
            raise ConfigError(f"the batch size is {batch_size}", allowed="1 or more")
        chunks = (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
        centre = np.full(batch_size, CENTRE_VIEW)
        return (self._batch(chunk, centre[: len(chunk)], torch.device(device), channels_last) for chunk in chunks)

    def view_batches(
        self,
        view: int,
        *,
        batch_size: int,
        device: str | torch.device = "cpu",
        indices: npt.NDArray[np.int64] | None = None,
    ) -> Iterator[Batch]:
        """One view of every training image, unmixed, in the order of the store: for a teacher whose answers are kept.

        Args:
            view: its number, 0 or more.
            batch_size: B.
            device: where batches are made.
            indices: positions of other images than all those of training.
        """
        rows = np.sort(self.split.train) if indices is None else indices
        chunks = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
        return (self._batch(chunk, np.full(len(chunk), view), torch.device(device), True) for chunk in chunks)

    def _batch(
        self,
        indices: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
        device: torch.device,
        channels_last: bool,
    ) -> Batch:
        index, views = torch.from_numpy(indices.copy()), torch.from_numpy(numbers.copy())
        # Indexing a memory map copies exactly these pictures; bytes travel, floats are made on the device.
        stored = moved(torch.from_numpy(np.asarray(self.store.images[indices])), device)
        pixels = (
            centre_view(stored, self.img_size)
            if (numbers == CENTRE_VIEW).all()
            else make_views(stored, index, views, spec=self.spec, view_seed=self.view_seed, img_size=self.img_size)
        )
        labels, targets = None, None
        if self.store.targets is not None:
            targets = moved(torch.from_numpy(self.store.targets[indices].astype(np.float32)), device)
        else:
            labels = torch.from_numpy(self.store.labels[indices])
            labels = moved(labels, device)
        images, there = to_float(pixels, channels_last), (moved(index, device), moved(views, device))
        return Batch(images, labels, *there, targets, known=(index, views))

    def card(self) -> dict[str, Any]:
        """Tell what is known of the data, as JSON: the run folder's ``data.json``."""
        counts = {part: self.source.count_labels(self.split.part(part)).tolist() for part in PARTS}
        return {
            "name": self.source.name,
            "source": self.source.location,
            "place": source_location(self.source),
            "kind": self.source.kind,
            "num_images": len(self.source.items),
            "num_groups": len({item.group for item in self.source.items if item.group is not None}),
            "num_classes": self.num_classes,
            **({"multi_label": True} if self.multi_label else {}),
            "classes": list(self.classes),
            "counts": counts,
            "split": {
                **{part: len(self.split.part(part)) for part in PARTS},
                "fingerprint": self.split.fingerprint,
            },
            "native_size": self.native,
            "store_size": self.store.size,
            "img_size": self.img_size,
            **self._bands_card(),
            "views": {
                "name": self.views,
                "options": dict(self.view_options),
                **asdict(self.spec),
                "view_seed": self.view_seed,
                "num_views": self.num_views,
            },
            "mix": asdict(self.mix),
            "skipped": [{"image": image.key, "reason": image.reason} for image in self.store.skipped],
            "leaks": self.leaks.as_dict() if self.leaks is not None else None,
            "fingerprint": self.store.fingerprint,
            "split_fingerprint": self.split.fingerprint,
            "notes": [*self.source.notes, *self.split.notes],
        }

    def _bands_card(self) -> dict[str, Any]:
        """What is to be known of the bands; nothing where the pictures are ordinary ones."""
        if self.store.bands is None:
            return {}
        mean, std = self.channel_statistics
        return {"bands": {**self.store.bands.as_dict(), "mean": list(mean), "std": list(std)}}


def to_float(pixels: Tensor, channels_last: bool = True) -> Tensor:
    """Bytes to float32 in [0,1], divided by 255 as everywhere.

    Args:
        pixels: ``[B,C,H,W]`` uint8.
        channels_last: memory format of the result.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return pixels.to(torch.float32, memory_format=layout).div_(255)
