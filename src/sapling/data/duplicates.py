"""Images that show the same picture: exact copies, and near ones that were mirrored, turned or encoded anew. No torch.

Three steps. Copies of the same pixels are found by their hash. Of the others, a short description (low
frequencies of a grey thumbnail, each divided by its spread in this data set) is compared for all pairs in all
eight orientations at once. What is more alike there than other images of this set are is then looked at
closely: aligned, and compared by local contrast, where flat water gives no evidence and one bright edge does
not outvote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sapling.data.alignment import align, correlation, local_contrast
from sapling.data.thumbnails import SIDE, TRANSFORMS, Floats, inverse, lay, thumbnails

Integers = npt.NDArray[np.int64]

_ORDER = 9  # frequencies 0..8 in each direction: 80 numbers without the mean
_NOISE = 0.02  # of the picture's contrast: frequencies that hardly vary in this set must not count by their noise
_PRIOR_IMAGES = 50  # so many images is the usual spectrum of pictures worth beside that of the set itself
_COHORT = 2000  # images that each image is compared with to see how alike others are
_RANK = 10  # the tenth best of them
_FEW = 30  # with fewer images nothing is learnt from them, and _USUAL_CROWD is taken
_USUAL_CROWD = 0.4  # median of EuroSAT and of AID
_JUMP = 2.5  # from one neighbour to the next: those before are copies, those after are other pictures
_BLOCK = (256, 512)  # rows and columns whose work arrays stay in the processor's cache
_LOOK_FROM = 0.65  # similarity from which a pair can be a candidate ..
_LOOK_MARGIN = 0.8  # .. if it is also so much nearer than the tenth neighbour
_PER_IMAGE = 8
_BATCH = 1024
_TIE = 0.03

# A near match. Measured on 27,000 + 3,000 satellite and aerial images, 2,541 trees, 1,797 digits with 13 kinds
# of copies: benchmarks/duplicates.py. The best pair of different pictures fails each by a margin.
_LOCAL_FROM = 0.75
_CROWDING_TO = 0.2
_COLOUR_TO = 10.0
# The same for pictures that lie and are lit in the same way, which is evidence too: strong compression, which
# takes the texture that local contrast lives on, leaves that.
_SAME_LIGHT = 1.0  # grey levels between the means
_SAME_CONTRAST = 0.15  # natural logarithm of the ratio
_SAME_COLOUR = 3.0
_LOCAL_FROM_IN_SAME_LIGHT = 0.55
_CROWDING_TO_IN_SAME_LIGHT = 0.15


@dataclass(frozen=True, slots=True)
class Match:
    """Two images that show the same picture.

    Attributes:
        first: position of one image.
        second: position of the other, above ``first``.
        kind: ``exact`` (the same pixels, as they lie) or ``near``.
        transform: how the second lies against the first, one of :data:`sapling.data.thumbnails.TRANSFORMS`:
            done to the first it gives the second. Rotations are counter-clockwise. A picture that is its own
            mirror image counts as ``none``.
        distance: 1 minus the correlation of local contrast (see :mod:`sapling.data.alignment`) of the aligned
            32-pixel thumbnails; 0 = same, 0.45 the largest that is a match.
    """

    first: int
    second: int
    kind: str
    transform: str
    distance: float


def find_matches(images: npt.NDArray[np.uint8], *, progress: Callable[[int, int], None] | None = None) -> list[Match]:
    """Find images that show the same picture: copied, mirrored, turned, recompressed, resized, cropped by a little.

    Brightness and contrast may differ; colour must not by much (a grey copy of a coloured picture is another
    picture). Copies of pictures with next to no contrast (open water) that lost it to strong compression are
    not found: nothing is left to know them by.

    Of many copies not every pair is listed, but enough to connect them (see :func:`clusters`): of exact copies
    each with the first, and of near ones up to eight pairs per image, whose exact copies are not looked at again.

    Args:
        images: ``[N,S,S,3]`` uint8, also a memory map; read twice, some images at a time.
        progress: is called with (steps done, steps in all).

    Returns:
        Matches ordered by ``first`` and ``second``.
    """
    total = len(images)
    copies, distinct = _exact(images)
    if len(distinct) < 2:
        return copies
    halves = (lambda offset: lambda done, _: progress(min(offset + done, 2 * total), 2 * total)) if progress else None
    grey, colour = thumbnails(images, progress=halves(0) if halves else None)
    grey, colour = grey[distinct], colour[distinct]
    describer = Describer(grey)
    crowd = _crowd(describer.all)
    first, second = _candidates(describer.all, crowd, halves(total) if halves else None)
    if progress is not None:
        progress(2 * total, 2 * total)
    first, second, code = _orientations(describer.all, first, second)
    near: dict[tuple[int, int], tuple[float, int]] = {}
    for start in range(0, len(first), _BATCH):
        i, j, k = (each[start : start + _BATCH] for each in (first, second, code))
        found = compare(describer, grey, colour, crowd, i, j, k)
        for p in np.flatnonzero(_is_match(found)):
            pair, local = (int(distinct[i[p]]), int(distinct[j[p]])), float(found.local[p])
            # Orientations come in order, the simplest first: another must be clearly better.
            if pair not in near or local > near[pair][0] + _TIE:
                near[pair] = (local, int(k[p]))
    # What was done to the second to compare it is undone to say how it lies against the first.
    matches = [
        Match(i, j, "near", inverse(TRANSFORMS[k]), max(0.0, round(1 - local, 6)))
        for (i, j), (local, k) in near.items()
    ]
    return sorted(copies + matches, key=lambda match: (match.first, match.second))


def _is_match(found: Measures) -> npt.NDArray[np.bool_]:
    clear = (found.local >= _LOCAL_FROM) & (found.crowding <= _CROWDING_TO) & (found.colour <= _COLOUR_TO)
    same_light = (found.light <= _SAME_LIGHT) & (found.contrast <= _SAME_CONTRAST) & (found.colour <= _SAME_COLOUR)
    likely = (found.unmoved >= _LOCAL_FROM_IN_SAME_LIGHT) & (found.crowding <= _CROWDING_TO_IN_SAME_LIGHT)
    return clear | (same_light & likely)


def clusters(num_images: int, matches: Sequence[Match]) -> list[tuple[int, ...]]:
    """Gather images that matches connect, also through others.

    Args:
        num_images: N.
        matches: as of :func:`find_matches`.

    Returns:
        Positions of each cluster of two or more, ascending; the largest cluster first, then by position.
    """
    links = np.array([(match.first, match.second) for match in matches], dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(num_images, num_images))
    _, member_of = connected_components(graph, directed=False) if num_images else (0, np.zeros(0, np.int32))
    members: dict[int, list[int]] = {}
    for image in np.unique(links):
        members.setdefault(int(member_of[image]), []).append(int(image))
    return sorted((tuple(found) for found in members.values()), key=lambda found: (-len(found), found))


def _exact(images: npt.NDArray[np.uint8]) -> tuple[list[Match], Integers]:
    """Matches of the same pixels, each copy with the first, and the positions of the different pictures."""
    seen: dict[bytes, int] = {}
    matches = []
    for position, image in enumerate(images):
        digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        first = seen.setdefault(digest, position)
        if first != position:
            matches.append(Match(first, position, "exact", "none", 0.0))
    return matches, np.fromiter(seen.values(), dtype=np.int64, count=len(seen))


@dataclass(frozen=True, slots=True)
class Measures:
    """How alike candidate pairs are, each ``[P]``.

    Attributes:
        similarity: of the descriptions after alignment, 1 = same.
        local: correlation of local contrast after alignment, 1 = same.
        crowding: distance of the descriptions against that of the tenth best neighbour: (1 - similarity) /
            (1 - neighbour)^1.5. The exponent is above 1 so that sets in which all pictures are alike (digits) are
            judged more strictly.
        colour: root mean square of the difference of colour, in grey levels, at the contrast of the first.
        unmoved: correlation of local contrast without alignment.
        light: difference of the means, in grey levels.
        contrast: absolute logarithm of the ratio of contrasts.
    """

    similarity: Floats
    local: Floats
    crowding: Floats
    colour: Floats
    unmoved: Floats
    light: Floats
    contrast: Floats


class Describer:
    """Short description of thumbnails, ``[N,9,9]`` of unit length: low frequencies over their spread in a set."""

    def __init__(self, grey: Floats) -> None:
        frequencies, blank = _frequencies(grey)
        seen = frequencies[~blank]
        weight = len(seen) / (len(seen) + _PRIOR_IMAGES)
        # Of the mean only what has all symmetries is taken off: then describing and turning commute.
        mean = weight * seen.sum(0) / max(len(seen), 1)
        mean[1::2] = mean[:, 1::2] = 0
        self.mean = (mean + mean.T) / 2
        spread = ((seen - self.mean) ** 2).sum(0) / max(len(seen), 1)
        order = np.arange(_ORDER)
        # Power of pictures falls with the square of the frequency; 0.2 makes the sum that of a normal picture.
        prior = 0.2 / np.maximum(order[:, None] ** 2 + order**2, 1)
        spread = weight * (spread + spread.T) / 2 + (1 - weight) * prior
        self.weight = 1 / np.sqrt(spread + _NOISE**2)
        self.weight[0, 0] = 0
        self.all = self._finish(frequencies, blank)

    def __call__(self, grey: Floats) -> Floats:
        """Describe other thumbnails ``[P,32,32]`` in the same way."""
        return self._finish(*_frequencies(grey))

    def _finish(self, frequencies: Floats, blank: npt.NDArray[np.bool_]) -> Floats:
        weighted = (frequencies - self.mean) * self.weight
        weighted[blank] = 0
        norm = np.sqrt((weighted**2).sum((1, 2), keepdims=True))
        return np.asarray(weighted / np.maximum(norm, 1e-6), dtype=np.float32)


def _frequencies(grey: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """``[N,9,9]`` of the cosine transform of each picture over its contrast, and which have no contrast at all."""
    found = np.zeros((len(grey), _ORDER, _ORDER), np.float32)
    blank = np.zeros(len(grey), np.bool_)
    for start in range(0, len(grey), 4096):
        chunk = grey[start : start + 4096]
        centred = chunk - chunk.mean((1, 2), keepdims=True)
        contrast = np.sqrt((centred**2).mean((1, 2), keepdims=True))
        low = dctn(centred, axes=(1, 2), norm="ortho")[:, :_ORDER, :_ORDER] / SIDE
        found[start : start + 4096] = low / np.maximum(contrast, 1e-6)
        blank[start : start + 4096] = contrast[:, 0, 0] < 1e-3
    return found, blank


def _by_parity(described: Floats) -> list[Floats]:
    """Even and odd rows and columns apart: mirroring changes the sign of odd columns, flipping of odd rows."""
    parts = ((0, 0), (0, 1), (1, 0), (1, 1))
    return [np.ascontiguousarray(described[:, r::2, c::2].reshape(len(described), -1)) for r, c in parts]


class _Block:
    """Similarities of some images with others in the four orientations without transposing, made in place."""

    def __init__(self, rows: int, columns: int) -> None:
        self.work = [np.empty(rows * columns, np.float32) for _ in range(6)]

    def sums(self, first: Sequence[Floats], second: Sequence[Floats]) -> tuple[Floats, Floats, Floats, Floats]:
        """``a, b, c, d``: similarities are a + b (none), a - b (rotated 180), c + d (flipped), c - d (mirrored)."""
        shape = (len(first[0]), len(second[0]))
        even, column, row, both, a, b = (w[: shape[0] * shape[1]].reshape(shape) for w in self.work)
        for one, two, out in zip(first, second, (even, column, row, both), strict=True):
            np.matmul(one, two.T, out=out)
        np.add(even, both, out=a)
        np.subtract(even, both, out=even)
        np.add(column, row, out=b)
        np.subtract(column, row, out=column)
        return a, b, even, column


def _best(sums: tuple[Floats, Floats, Floats, Floats]) -> Floats:
    """Largest similarity over the four orientations; spoils its input."""
    a, b, c, d = sums
    np.abs(b, out=b)
    np.abs(d, out=d)
    np.add(a, b, out=a)
    np.add(c, d, out=c)
    return np.maximum(a, c, out=a)


def _crowd(described: Floats) -> Floats:
    """``[N]``: how alike other pictures of the set are: the tenth best similarity to a sample, in any orientation.

    Where the neighbours end in a jump, as from the last of twenty copies to the first other picture, it is the
    one after the jump.
    """
    total = len(described)
    if total < _FEW:
        return np.full(total, _USUAL_CROWD, np.float32)
    cohort = described[np.unique(np.linspace(0, total - 1, min(total, _COHORT)).astype(np.int64))]
    depth = min(64, len(cohort))
    plain, turned = _by_parity(cohort), _by_parity(cohort.swapaxes(1, 2))
    rows = _BLOCK[0]
    block = _Block(rows, len(cohort))
    crowd = np.empty(total, np.float32)
    for start in range(0, total, rows):
        mine = _by_parity(described[start : start + rows])
        best = _best(block.sums(mine, plain)).copy()
        np.maximum(best, _best(block.sums(mine, turned)), out=best)
        distance = np.sort(np.partition(1 - best, depth - 1, axis=1)[:, :depth], axis=1).clip(1e-3)
        jumps = distance[:, _RANK:] > _JUMP * distance[:, _RANK - 1 : -1]
        last = np.where(jumps.any(1), jumps.shape[1] - 1 - jumps[:, ::-1].argmax(1), 0)
        crowd[start : start + rows] = 1 - distance[np.arange(len(best)), _RANK + last]
    return np.maximum(crowd, 0)


def _candidates(
    described: Floats, crowd: Floats, progress: Callable[[int, int], None] | None
) -> tuple[Integers, Integers]:
    """Pairs worth a closer look, first below second: all pairs are compared, in all orientations."""
    threshold = np.maximum(_LOOK_FROM, 1 - _LOOK_MARGIN * (1 - crowd))
    total = len(described)
    mine = _by_parity(described)
    versions = (mine, _by_parity(described.swapaxes(1, 2)))
    rows, columns = _BLOCK
    block = _Block(rows, columns)
    found: list[tuple[Integers, Integers]] = []
    for start in range(0, total, rows):
        here = slice(start, start + rows)
        first = [part[here] for part in mine]
        of_rows: list[tuple[Integers, Integers, Floats]] = []
        for base in range(start - start % columns, total, columns):
            there = slice(base, base + columns)
            lowest = max(threshold[here].min(), threshold[there].min())
            for version in versions:
                best = _best(block.sums(first, [part[there] for part in version]))
                if best.max() <= lowest:
                    continue
                i, j = np.nonzero(best > threshold[here, None])
                value = best[i, j]
                i, j = i + start, j + base
                keep = (i < j) & (value > threshold[j])
                of_rows.append((i[keep], j[keep], value[keep]))
        if of_rows:
            i, j, value = (np.concatenate(part) for part in zip(*of_rows, strict=True))
            # Of very many look-alikes of one image only the most alike are looked at.
            order = np.lexsort((-value, i))
            kept = order[np.arange(len(i)) - np.searchsorted(i[order], i[order]) < _PER_IMAGE]
            found.append((i[kept], j[kept]))
        if progress is not None:
            progress(min(start + rows, total), total)
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # A pair may have been found both transposed and not.
    pairs = np.unique(np.stack([np.concatenate(part) for part in zip(*found, strict=True)], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _orientations(described: Floats, first: Integers, second: Integers) -> tuple[Integers, Integers, Integers]:
    """All orientations of each pair that are about as good as its best: first, second, position of the transform."""
    signs = np.where(np.arange(_ORDER) % 2, -1, 1).astype(np.float32)
    one, two = described[first], described[second]
    scores = np.empty((len(first), len(TRANSFORMS)), np.float32)
    for k in range(len(TRANSFORMS)):
        version = two.swapaxes(1, 2) if k & 4 else two
        rows, columns = signs if k & 2 else np.abs(signs), signs if k & 1 else np.abs(signs)
        scores[:, k] = np.einsum("pij,pij,i,j->p", one, version, rows, columns, optimize=True)
    pair, code = np.nonzero(scores >= scores.max(1, keepdims=True) - _TIE)
    return first[pair], second[pair], code


def compare(
    describer: Describer, grey: Floats, colour: Floats, crowd: Floats, first: Integers, second: Integers, code: Integers
) -> Measures:
    """Measure pairs.

    Args:
        describer: of the set.
        grey: ``[N,32,32]`` thumbnails.
        colour: ``[N,8,8,3]`` thumbnails.
        crowd: ``[N]``, see :func:`_crowd`.
        first: ``[P]`` positions.
        second: ``[P]`` positions.
        code: ``[P]`` position in ``TRANSFORMS`` of what is done to the second before.
    """
    one, two = grey[first], grey[second]
    tint, other = colour[first], colour[second]
    for k, transform in enumerate(TRANSFORMS[1:], 1):
        mine = code == k
        two[mine] = lay(two[mine], transform)
        other[mine] = lay(other[mine].transpose(0, 3, 1, 2), transform).transpose(0, 2, 3, 1)
    light = np.abs(one.mean((1, 2)) - two.mean((1, 2)))
    contrast = np.abs(np.log(np.maximum(one.std((1, 2)), 0.1) / np.maximum(two.std((1, 2)), 0.1)))
    aligned = align(one, two)
    as_it_lies = correlation(local_contrast(one), local_contrast(two))
    moved = correlation(local_contrast(one), local_contrast(aligned.moved), aligned.inside)
    two = np.where((moved > as_it_lies)[:, None, None], aligned.moved, two)
    similarity = (describer(one) * describer(two)).sum((1, 2))
    nearest = np.maximum(crowd[first], crowd[second])
    # Brightness and contrast may differ: colour is compared at the contrast of the first picture.
    spread, spread_of_other = (np.maximum(each.std((1, 2)), 1.0) for each in (one, two))
    gain = np.clip(spread / spread_of_other, 0.5, 2)[:, None, None, None]
    return Measures(
        similarity,
        np.maximum(moved, as_it_lies),
        (1 - similarity) / np.maximum(1 - nearest, 1e-3) ** 1.5,
        np.sqrt(((tint - gain * other) ** 2).mean((1, 2, 3))),
        as_it_lies,
        light,
        contrast,
    )
