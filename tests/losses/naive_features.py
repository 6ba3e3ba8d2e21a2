"""The losses on features once more, in numpy float64 with loops: slow, plain, and written from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np


def length(vector):
    return math.sqrt(sum(float(v) ** 2 for v in np.ravel(vector)))


def pooled(feature, height, width):
    """Adaptive mean of ``[C,H,W]``: the pixels from floor(i H / h) to ceil((i + 1) H / h)."""
    channels, rows, columns = feature.shape
    out = np.zeros((channels, height, width))
    for i in range(height):
        for j in range(width):
            top, bottom = i * rows // height, -(-(i + 1) * rows // height)
            left, right = j * columns // width, -(-(j + 1) * columns // width)
            out[:, i, j] = feature[:, top:bottom, left:right].mean(axis=(1, 2))
    return out


def attention(feature, power):
    energy = [sum(abs(v) ** power for v in feature[:, i, j]) for i, j in np.ndindex(feature.shape[1:])]
    return [e / length(energy) for e in energy]


def attention_error(student, teacher, power):
    height, width = (min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
    found = []
    for s, t in zip(student, teacher, strict=True):
        ours, theirs = (attention(pooled(f, height, width), power) for f in (s, t))
        found += [(a - b) ** 2 for a, b in zip(ours, theirs, strict=True)]
    return sum(found) / len(found)


def similarity_error(student, teacher):
    tables = []
    for features in (student, teacher):
        flat = [np.ravel(f) for f in features]
        table = [[float(a @ b) for b in flat] for a in flat]
        tables.append([[v / length(row) for v in row] for row in table])
    gaps = [(a - b) ** 2 for ours, theirs in zip(*tables, strict=True) for a, b in zip(ours, theirs, strict=True)]
    return sum(gaps) / len(student) ** 2


def affinity(vectors):
    table = [[(float(a @ b) / (length(a) * length(b)) + 1) / 2 for b in vectors] for a in vectors]
    return [[v / sum(row) for v in row] for row in table]


def affinity_divergence(student, teacher, eps=1e-7):
    q, p = affinity(student), affinity(teacher)
    pairs = [(a, b) for x, y in zip(p, q, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(a * math.log((a + eps) / (b + eps)) for a, b in pairs) / len(student) ** 2


def smooth_l1(gap):
    return gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5


def distances(vectors):
    table = [[length(a - b) for b in vectors] for a in vectors]
    apart = [d for row in table for d in row if d > 0]
    return [[d / (sum(apart) / len(apart)) for d in row] for row in table]


def distance_error(student, teacher):
    ours, theirs = distances(student), distances(teacher)
    pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(smooth_l1(a - b) for a, b in pairs) / len(pairs)


def cosine(first, second):
    product = length(first) * length(second)
    return float(first @ second) / product if product > 0 else 0.0


def angle_error(student, teacher):
    count, total = len(student), 0.0
    for i, j, k in np.ndindex(count, count, count):
        ours, theirs = (cosine(f[i] - f[j], f[k] - f[j]) for f in (student, teacher))
        total += smooth_l1(ours - theirs)
    return total / count**3


def singular_values(matrix):
    """By turning pairs of columns until all are orthogonal (Jacobi); their lengths are the singular values."""
    columns = np.array(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T, dtype=np.float64)
    for _ in range(30):
        for i in range(columns.shape[1]):
            for j in range(i):
                a, b = columns[:, i].copy(), columns[:, j].copy()
                angle = 0.5 * math.atan2(2 * float(a @ b), float(a @ a) - float(b @ b))
                columns[:, i] = math.cos(angle) * a + math.sin(angle) * b
                columns[:, j] = math.cos(angle) * b - math.sin(angle) * a
    return sorted((length(columns[:, i]) for i in range(columns.shape[1])), reverse=True)


def nuclear_norm(matrix):
    return sum(singular_values(matrix))


def effective_rank(matrix):
    values = singular_values(matrix)
    shares = [v / sum(values) for v in values]
    return math.exp(-sum(s * math.log(s) for s in shares if s > 0))
