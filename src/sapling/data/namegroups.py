"""Propose a group pattern: names suggest which images show one thing, their pixels decide. No torch.

Candidates come from the structure of the names. One is proposed only if two images of one of its groups look
more alike than two of the same class and different groups.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from sapling.data.groups import WORDS, group_texts
from sapling.data.thumbnails import TRANSFORMS, Floats, lay, thumbnails

# Words that speak of groups by themselves; after the others a number is needed (oak_t3, oak_z12).
_COPIES = ("copy", "flip", "mirror", "rot", "rotated", "aug", "augmented", "crop", "resized", "scaled", "noise", "blur")
_SINGLE = ("left", "right", "front", "back", "top", "bottom", "t", "z", "s", "f", "v")
_END = r"\.[^.]*$"
_SEPARATORS = "-_ .,+@#"

_MIN_GROUPS = 10
_MAX_SHARE_OF_CLASS = 0.1
_MAX_SIZE_OF_SMALL_CLASS = 6
_MIN_GROUPED = 0.5
_MIN_GROUPED_BY_WORD = 0.05

# Measured in benchmarks/duplicates.py: random groups 0.50 to 0.52, images of neighbouring numbers up to 0.63 (AID)
# or 0.74 (digits, where neighbours have one writer), views of one tree 0.89.
_LIKENESS = 0.7
_LIKENESS_BY_WORD = 0.6
_P_VALUE = 1e-3
_TESTED_GROUPS = 400
_DRAWS = 4


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A proposed group pattern.

    Attributes:
        pattern: regular expression as :func:`sapling.data.groups.with_groups` takes it.
        num_groups: groups of two or more images.
        num_images: images in these.
        examples: up to three groups with their files, for people.
        likeness: probability that two images of one group look more alike than two of the same class and
            different groups; 0.5 = no more.
        p_value: that it would be so high by chance, times the number of patterns that were tested.
    """

    pattern: str
    num_groups: int
    num_images: int
    examples: tuple[str, ...]
    likeness: float
    p_value: float


@dataclass(frozen=True, slots=True)
class _Candidate:
    pattern: str
    has_word: bool
    groups: tuple[tuple[int, ...], ...]  # of two images or more
    member_of: npt.NDArray[np.int64]  # -1: alone

    @property
    def num_images(self) -> int:
        return sum(map(len, self.groups))


def propose_group_pattern(
    keys: Sequence[str], labels: npt.NDArray[np.int64], images: npt.NDArray[np.uint8], *, seed: int = 0
) -> NamePattern | None:
    """Find a pattern in the names that gathers images which look alike.

    A word such as ``view`` or ``aug`` is evidence of its own: with it a likeness of 0.6 is enough, without it 0.7
    is asked for, and p below 0.001 for both (randomisation test over groups, corrected for the number of
    candidates). Of nested candidates (patient; patient and eye) the coarser one is taken if images from its
    different parts look alike too.

    Args:
        keys: ``[N]`` paths inside the source.
        labels: ``[N]``.
        images: ``[N,S,S,3]`` uint8, also a memory map; some of them are read.
        seed: of the images that are drawn.

    Returns:
        The best pattern, or None where names and pixels do not speak of groups.
    """
    candidates = _candidates(list(keys), np.asarray(labels, dtype=np.int64))
    looks = _Looks(images, np.asarray(labels, dtype=np.int64), seed)
    best: tuple[_Candidate, float, float] | None = None
    for candidate in candidates:
        inner = best[0] if best is not None and _refines(best[0], candidate) else None
        likeness, p_value = looks.likeness(candidate, inner)
        p_value = min(1.0, p_value * len(candidates))
        if likeness < (_LIKENESS_BY_WORD if candidate.has_word else _LIKENESS) or p_value > _P_VALUE:
            continue
        if best is None or inner is not None or likeness > best[1] + 0.05:
            best = candidate, likeness, p_value
    if best is None:
        return None
    found, likeness, p_value = best
    return NamePattern(
        found.pattern,
        len(found.groups),
        found.num_images,
        tuple(_shown([keys[i] for i in group]) for group in found.groups[:3]),
        round(likeness, 3),
        p_value,
    )


def _shown(names: list[str]) -> str:
    listed = ", ".join(name.rsplit("/", 1)[-1] for name in names[:4])
    return f"{names[0].rpartition('/')[0]}: {listed}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _candidates(keys: list[str], labels: npt.NDArray[np.int64]) -> list[_Candidate]:
    """All patterns whose groups have sensible sizes, the finest first; one of each partition, the simplest."""
    found: dict[bytes, _Candidate] = {}
    sizes = Counter(labels.tolist())
    for pattern, has_word in dict(_patterns(keys, labels)).items():
        candidate = _grouped(pattern, has_word, keys, labels)
        if _is_sensible(candidate, len(keys), labels, sizes):
            found.setdefault(candidate.member_of.tobytes(), candidate)
    return sorted(found.values(), key=lambda each: (-len(each.groups), each.num_images, not each.has_word))


def _grouped(pattern: str, has_word: bool, keys: list[str], labels: npt.NDArray[np.int64]) -> _Candidate:
    members: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(group_texts(keys, [str(label) for label in labels], re.compile(pattern))):
        if text is not None:
            members[text].append(i)
    groups = tuple(tuple(each) for each in members.values() if len(each) > 1)
    member_of = np.full(len(keys), -1, dtype=np.int64)
    for k, group in enumerate(groups):
        member_of[list(group)] = k
    return _Candidate(pattern, has_word, groups, member_of)


def _is_sensible(found: _Candidate, total: int, labels: npt.NDArray[np.int64], sizes: Counter[int]) -> bool:
    grouped = found.num_images
    if len(found.groups) < _MIN_GROUPS or grouped < (_MIN_GROUPED_BY_WORD if found.has_word else _MIN_GROUPED) * total:
        return False
    # Images in groups that are a large part of their class: names of the class, of a source, of a camera.
    large = sum(
        len(group)
        for group in found.groups
        if len(group) > max(_MAX_SIZE_OF_SMALL_CLASS, _MAX_SHARE_OF_CLASS * sizes[int(labels[group[0]])])
    )
    return large <= 0.1 * grouped


def _refines(fine: _Candidate, coarse: _Candidate) -> bool:
    """Whether every group of the one lies inside a group of the other, which has more in it."""
    inside = all(
        coarse.member_of[group[0]] >= 0 and len({int(coarse.member_of[i]) for i in group}) == 1 for group in fine.groups
    )
    return inside and (len(coarse.groups) < len(fine.groups) or coarse.num_images > fine.num_images)


def _patterns(keys: list[str], labels: npt.NDArray[np.int64]) -> Iterator[tuple[str, bool]]:
    """Patterns that the names could mean, and whether a word says so; the simplest spelling first."""
    names = [key.rsplit("/", 1)[-1] for key in keys]
    yield from _by_word(names)
    yield from _by_folder(keys, labels)
    yield rf"^(.+?)(?: ?\(\d+\)| - copy| copy(?: ?\d+)?)*{_END}".replace("copy", "[Cc]opy"), True
    yield from _by_place(names)


def _by_word(names: list[str]) -> Iterator[tuple[str, bool]]:
    words = "|".join(sorted((*WORDS, *_COPIES, *_SINGLE), key=len, reverse=True))
    marks = re.compile(rf"([-_. ]|(?<=\d))({words})([-_ ]?)(?=\d|[-_. ])", re.IGNORECASE)
    seen: Counter[tuple[str, str, str]] = Counter()
    for name in names:
        seen.update({(m.group(1), m.group(2), m.group(3)) for m in marks.finditer(name) if m.start(2) > 1})
    for (before, word, after), count in seen.most_common(6):
        strong = word.lower() not in _SINGLE
        literal = re.escape(before) if before == "." else before
        if count >= 0.95 * len(names):
            yield f"(.+){literal}{word}{after}", strong
        else:
            # The original has no such word behind it: oak_1.jpg, oak_1_flip.jpg.
            yield rf"^(.+?)(?:{literal}{word}[-_ ]?.*?)?{_END}", strong
    copies = "|".join(sorted({word for (_, word, _) in seen if word.lower() not in _SINGLE}))
    if copies:
        yield rf"^(.+?)(?:[-_ .](?:{copies})[-_ ]?.*?)?{_END}", True


def _by_folder(keys: list[str], labels: npt.NDArray[np.int64]) -> Iterator[tuple[str, bool]]:
    """Folders below the folder of the class: class/tree7/a.png."""
    parts = [key.split("/") for key in keys]
    depth = min(map(len, parts), default=0)
    classes = len(set(labels.tolist()))
    for level in range(depth - 1):
        pairs = {(part[level], int(label)) for part, label in zip(parts, labels, strict=True)}
        if len(pairs) == classes == len({name for name, _ in pairs}):
            if depth - level > 2:
                yield r"([^/]+/[^/]+)/[^/]+$", False
            if depth - level > 3:
                yield r"([^/]+/[^/]+)/[^/]+/[^/]+$", False
            return


def _by_place(names: list[str]) -> Iterator[tuple[str, bool]]:
    """What stands before a separator or between two, and up to a number."""
    for separator, count in Counter(c for name in names for c in set(name.rsplit(".", 1)[0])).most_common():
        if separator not in _SEPARATORS or count < _MIN_GROUPED * len(names):
            continue
        s, other = re.escape(separator) if separator in ".+" else separator, f"[^{separator}]"
        most = max(name.count(separator) for name in names)
        for k in range(1, min(most, 5) + 1):
            yield f"^({other}*(?:{s}{other}*){{{k - 1}}}){s}" if k > 1 else f"^({other}+){s}", False
        for k in range(1, min(most, 4) + 1):
            yield f"^(?:{other}*{s}){{{k}}}({other}+?)(?:{s}|{_END})", False
        yield f"^(.+){s}{other}*$", False
    yield r"^(\D*\d+)\D", False
    yield rf"^(.*\d)[A-Za-z]{_END}", False
    yield rf"^(.*\D)\d+{_END}", False


class _Looks:
    """Compares pictures of a set; thumbnails are made of those only that are drawn."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], seed: int) -> None:
        self.images, self.labels, self.seed = images, labels, seed
        self.of_class = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}

    def likeness(self, candidate: _Candidate, inner: _Candidate | None) -> tuple[float, float]:
        """Likeness and its p-value; with ``inner`` of images from different groups of that one only."""
        rng = np.random.default_rng(self.seed)
        picked = rng.permutation(len(candidate.groups))[:_TESTED_GROUPS]
        drawn = [
            (place, *triple)
            for place, k in enumerate(picked)
            for _ in range(_DRAWS)
            if (triple := self._draw(candidate, candidate.groups[k], inner, rng)) is not None
        ]
        if not drawn:
            return 0.5, 1.0
        place, one, mate, stranger = np.array(drawn, dtype=np.int64).T
        used, where = np.unique(np.concatenate([one, mate, stranger]), return_inverse=True)
        looks = _features(self.images, used)
        one, mate, stranger = where.reshape(3, -1)
        best = 0.5, 1.0
        for distance in (_colour_distance, _shape_distance):
            near, far = distance(looks, one, mate), distance(looks, one, stranger)
            wins = (near < far) + 0.5 * (near == far)
            count = np.bincount(place, minlength=len(picked))
            share = np.bincount(place, weights=wins, minlength=len(picked))[count > 0] / count[count > 0]
            if len(share) >= _MIN_GROUPS and np.any(share != 0.5):
                surplus = share - 0.5
                # Signs of the groups' surplus are random where groups say nothing (randomisation test, by its normal
                # approximation); two distances are tested, hence the 2.
                p_value = 2 * float(ndtr(-surplus.sum() / np.sqrt((surplus**2).sum())))
                best = max(best, (float(share.mean()), p_value))
        return best

    def _draw(
        self, candidate: _Candidate, group: tuple[int, ...], inner: _Candidate | None, rng: np.random.Generator
    ) -> tuple[int, int, int] | None:
        """One image of a group, a mate of it, and an image of its class from elsewhere; None if not found."""
        for _ in range(8):
            one, mate = (int(i) for i in rng.choice(group, 2, replace=False))
            if inner is not None and 0 <= inner.member_of[one] == inner.member_of[mate]:
                continue
            stranger = int(rng.choice(self.of_class[int(self.labels[one])]))
            if stranger != one and not 0 <= candidate.member_of[one] == candidate.member_of[stranger]:
                return one, mate, stranger
        return None


def _features(images: npt.NDArray[np.uint8], used: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Colour ``[U,27]`` (quantiles and spread) and coarse shape ``[U,8,8]`` of unit length."""
    grey, colour = thumbnails(images[used])
    coarse = grey.reshape(len(used), 8, 4, 8, 4).mean((2, 4))
    palette = np.sort((colour + coarse[..., None]).reshape(len(used), 64, 3), axis=1)[:, 3::8].reshape(len(used), -1)
    spread = grey.std((1, 2))[:, None]
    shape = coarse - coarse.mean((1, 2), keepdims=True)
    norm = np.sqrt((shape**2).sum((1, 2), keepdims=True))
    shape = shape / np.maximum(norm, 1e-3)
    return np.concatenate([palette, spread], axis=1).astype(np.float32), shape.astype(np.float32)


def _colour_distance(looks: tuple[Floats, Floats], one: npt.NDArray[np.int64], two: npt.NDArray[np.int64]) -> Floats:
    return np.asarray(((looks[0][one] - looks[0][two]) ** 2).sum(1), dtype=np.float32)


def _shape_distance(looks: tuple[Floats, Floats], one: npt.NDArray[np.int64], two: npt.NDArray[np.int64]) -> Floats:
    """In the orientation in which they are most alike: copies are mirrored and turned."""
    first, second = looks[1][one], looks[1][two]
    alike = [(first * lay(second, transform)).sum((1, 2)) for transform in TRANSFORMS]
    return np.asarray(1 - np.max(alike, axis=0), dtype=np.float32)
