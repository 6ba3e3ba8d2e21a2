"""Where the pixels of a view come from: one gather for whole pixels, one bilinear sampling for all other moves.

Crop, resize, mirror, turn, shear and translation of a view are one affine map, so that a picture is interpolated
once. All of it is integer arithmetic (positions in 1/65,536, weights in 1/256 of a pixel), which has no rounding
that could depend on the batch, on threads or on the device.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sapling.data.parameters import Draws, Floats, ViewParameters, moves, sine_and_cosine
from sapling.data.viewspec import ViewSpec
from sapling.data.workspace import Workspace, moved

_ONE = 1 << 16  # positions are multiples of 1/65,536 pixel
_LANES = 0x00FF00FF  # every other byte of an int32
_HALVES = 0x00800080
# RandAugment's ranges at strength 1, as torchvision has them (translation: 150 of 331 pixels)
MAX_ROTATE, MAX_SHEAR, MAX_TRANSLATE = 30 / 360, 0.3, 0.45


def move_pixels(images: Tensor, drawn: ViewParameters, img_size: int) -> Tensor:
    """Shift, mirror and turn B pictures by whole pixels.

    Args:
        images: ``[B,S,S,C]`` uint8.
        drawn: what to do.
        img_size: side of the views.

    Returns:
        ``[B,img_size,img_size,C]`` uint8.
    """
    batch, side, device = images.shape[0], images.shape[1], images.device

    def column(values: npt.NDArray[np.int64]) -> Tensor:
        return moved(torch.from_numpy(values), device)[:, None]

    start = (side - img_size) // 2
    top, left = column(drawn.down + start), column(drawn.right + start)
    mirror_x, mirror_y, transpose = (column(drawn.orientation & bit) > 0 for bit in (1, 2, 4))

    line = torch.arange(img_size, device=device)
    y = torch.where(mirror_y, img_size - 1 - line, line)
    x = torch.where(mirror_x, img_size - 1 - line, line)

    # The offset of a pixel is a part that depends on its row in the view plus one that depends on its column;
    # a transposed view swaps what they mean.
    def in_row(position: Tensor) -> Tensor:
        return _reflect(position + top, side) * side

    def in_column(position: Tensor) -> Tensor:
        return _reflect(position + left, side)

    by_y = torch.where(transpose, in_column(y), in_row(y))
    by_x = torch.where(transpose, in_row(x), in_column(x))
    first = torch.arange(batch, device=device)[:, None] * (side * side)
    offsets = (by_y + first)[:, :, None] + by_x[:, None, :]
    pixels = images.reshape(batch * side * side, -1).index_select(0, offsets.view(-1))
    return pixels.view(batch, img_size, img_size, -1)


def _reflect(position: Tensor, side: int) -> Tensor:
    """Mirror positions outside of ``0 .. side - 1`` at the border pixels, which are not repeated."""
    position = position.abs()
    # A picture of one pixel has nothing to mirror; min and max keep any position inside.
    return torch.where(position < side, position, 2 * (side - 1) - position).clamp(0, side - 1)


def affine_maps(
    draws: Draws, spec: ViewSpec, amounts: dict[str, Floats], side: int, img_size: int
) -> npt.NDArray[np.int32]:
    """Draw where each view looks into its picture.

    Args:
        draws: random numbers of B views.
        spec: what may be drawn.
        amounts: operations of RandAugment, or empty.
        side: S, of the stored pictures.
        img_size: s, of the views.

    Returns:
        ``[6,B]`` int32 in 1/65,536 pixel: row and column of the view's centre in the picture, then by how much the
        row changes per half row and half column of the view, then the column likewise.
    """
    drawn = draws.drawn
    move = moves(draws, spec, img_size)
    middle = (side - img_size) // 2 + (img_size - 1) / 2
    # before anything is resized, pixels of the view are pixels of the picture
    tall, wide = np.ones(len(drawn)), np.ones(len(drawn))
    y, x = np.full(len(drawn), middle), np.full(len(drawn), middle)
    if spec.scale is not None:
        area = draws.between("area", *spec.scale)
        # a crop of this area fits if it is not longer than the picture
        aspect = np.clip(draws.on_log("aspect", *spec.ratio), area, 1 / area)
        height, width = np.sqrt(area / aspect), np.sqrt(area * aspect)
        row, column = draws.uniform("row") * (1 - height), draws.uniform("column") * (1 - width)
        tall = np.where(drawn, height * side / img_size, 1.0)
        wide = np.where(drawn, width * side / img_size, 1.0)
        y = np.where(drawn, (row + height / 2) * side - 0.5, y)
        x = np.where(drawn, (column + width / 2) * side - 0.5, x)
    angle = draws.around("angle", 0.0, spec.rotate / 360)
    shear_x, shear_y = draws.around("shear", 0.0, spec.shear), np.zeros(len(drawn))
    if amounts:
        angle = angle + MAX_ROTATE * amounts["rotate"]
        shear_x = shear_x + MAX_SHEAR * amounts["shear_x"]
        shear_y = shear_y + MAX_SHEAR * amounts["shear_y"]
        y = y + MAX_TRANSLATE * img_size * tall * amounts["translate_y"]
        x = x + MAX_TRANSLATE * img_size * wide * amounts["translate_x"]
    y, x = y + move.down, x + move.right
    # rotation times shear, columns (rows of the view, columns of the view)
    sine, cosine = sine_and_cosine(angle)
    yy, yx = cosine - sine * shear_x, cosine * shear_y - sine
    xy, xx = sine + cosine * shear_x, sine * shear_y + cosine
    flip_y = np.where(move.orientation & 2, -1.0, 1.0)
    flip_x = np.where(move.orientation & 1, -1.0, 1.0)
    transposed = (move.orientation & 4) > 0
    yy, yx = np.where(transposed, yx, yy) * flip_y, np.where(transposed, yy, yx) * flip_x
    xy, xx = np.where(transposed, xx, xy) * flip_y, np.where(transposed, xy, xx) * flip_x
    exact = np.stack([y * 2, x * 2, tall * yy, tall * yx, wide * xy, wide * xx])
    fixed: npt.NDArray[np.int32] = np.rint(exact * (_ONE // 2)).astype(np.int32)
    return fixed


def pack_pixels(images: Tensor, work: Workspace) -> list[Tensor]:
    """Put four channels of B pictures into one number, so that one gather moves them all.

    Args:
        images: ``[B,S,S,C]`` uint8.
        work: memory that is used again.

    Returns:
        One ``[B*S*S]`` int32 for each four channels, the first of them in the lowest byte.
    """
    packed = []
    for first in range(0, images.shape[3], 4):
        whole = work.get(f"packed {first}", images.shape[:3]).copy_(images[..., first])
        for k in range(first + 1, min(first + 4, images.shape[3])):
            channel = work.get("channel", images.shape[:3]).copy_(images[..., k])
            whole.bitwise_or_(channel.bitwise_left_shift_(8 * (k - first)))
        packed.append(whole.view(-1))
    return packed


def sample(images: Tensor, maps: Tensor, img_size: int, *, turned: bool, work: Workspace) -> Tensor:
    """Look into B pictures through affine maps, bilinearly; outside, pictures are mirrored.

    Args:
        images: ``[B,S,S,C]`` uint8, S at least 2.
        maps: ``[6,B]`` int32 of :func:`affine_maps`, on the same device.
        img_size: s.
        turned: False if no map mixes rows and columns, which saves work and changes nothing.
        work: memory that is used again.

    Returns:
        ``[C,B,s,s]`` int32 in 0 .. 255, in ``work``.
    """
    batch, side, channels = images.shape[0], images.shape[1], images.shape[3]
    shape = (batch, img_size, img_size)
    half = torch.arange(1 - img_size, img_size, 2, dtype=torch.int32, device=images.device)
    y, x, yy, yx, xy, xx = maps.view(6, batch, 1, 1)
    down, right = half.view(1, -1, 1), half.view(1, 1, -1)
    row, column = y + yy * down, x + xx * right
    if turned:
        row = torch.add(row, yx * right, out=work.get("row", shape))
        column = torch.add(column, xy * down, out=work.get("column", shape))
    row, by_row = _split(row, side, work.get("next row", row.shape))
    column, by_column = _split(column, side, work.get("next column", column.shape))
    first = torch.arange(0, batch * side * side, side * side, dtype=torch.int32, device=images.device)
    row.mul_(side).add_(first.view(-1, 1, 1))
    place = torch.add(row, column, out=work.get("place", shape)).view(-1)
    # four weights that sum to 256 exactly, so that an even area keeps its value
    both = torch.mul(by_row, by_column, out=work.get("both", shape)).add_(128).bitwise_right_shift_(8)
    only_right = torch.sub(by_column, both, out=work.get("only right", shape))
    only_down = torch.sub(by_row, both, out=work.get("only down", shape))
    neither = torch.sub(256 - by_row, only_right, out=work.get("neither", shape))
    pixels = work.get("pixels", (channels, *shape))
    total, lanes = work.get("total", shape), work.get("lanes", shape)
    for group, packed in enumerate(pack_pixels(images, work)):
        # the neighbour to the right is the next number, the one below is a row further
        taps = [
            (torch.index_select(packed[k:], 0, place, out=work.get(f"tap {t}", (place.numel(),))).view(shape), weight)
            for t, (k, weight) in enumerate(
                zip((0, 1, side, side + 1), (neither, only_right, only_down, both), strict=True)
            )
        ]
        last = min(4, channels - 4 * group)
        for odd in range(min(2, last)):
            # two channels at once, 16 bits each: 255 * 256 fits, and what overflows is cut off below
            total.fill_(_HALVES)
            for tap, weight in taps:
                total.addcmul_(torch.bitwise_and(tap, _LANES, out=lanes), weight)
                if odd + 1 < last:
                    tap.bitwise_right_shift_(8)
            for k in range(odd, last, 2):
                torch.bitwise_right_shift(total, 8 if k < 2 else 24, out=pixels[4 * group + k]).bitwise_and_(255)
    return pixels


def _split(position: Tensor, side: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror positions into the picture; the pixel before each, 0 .. S - 2, and the weight of the next, 0 .. 256."""
    last = (side - 1) * _ONE
    position.abs_().neg_().add_(last).abs_().neg_().add_(last).clamp_(0, last)
    torch.add(position, 128, out=weight)
    pixel = position.bitwise_right_shift_(16).clamp_(max=side - 2)
    return pixel, weight.sub_(pixel, alpha=_ONE).bitwise_right_shift_(8)
