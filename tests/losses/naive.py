"""The losses once more, in numpy float64 with loops: slow, plain, and written from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np


def softmax(row, temperature):
    largest = max(row)
    powers = [math.exp((z - largest) / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def kl_rows(student, teacher, temperature):
    """T^2 KL(teacher || student) of each image."""
    return np.array(
        [
            temperature**2 * kl(softmax(t, temperature), softmax(s, temperature))
            for s, t in zip(student, teacher, strict=True)
        ]
    )


def decoupled_rows(student, teacher, labels, temperature):
    target, non_target = [], []
    for s, t, y in zip(student, teacher, labels, strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        target.append(temperature**2 * kl([p[y], 1 - p[y]], [q[y], 1 - q[y]]))
        rest_p = [p[k] / (1 - p[y]) for k in range(len(p)) if k != y]
        rest_q = [q[k] / (1 - q[y]) for k in range(len(q)) if k != y]
        non_target.append(temperature**2 * kl(rest_p, rest_q))
    return np.array(target), np.array(non_target)


def pearson(first, second):
    a = [x - sum(first) / len(first) for x in first]
    b = [x - sum(second) / len(second) for x in second]
    product = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / (product + 1e-8)


def cosine(first, second):
    product = math.sqrt(sum(x * x for x in first)) * math.sqrt(sum(x * x for x in second))
    return sum(x * y for x, y in zip(first, second, strict=True)) / (product + 1e-8)


def dist_pair(student, teacher, temperature):
    """(inter, intra), each times T^2."""
    q = np.array([softmax(row, temperature) for row in student])
    p = np.array([softmax(row, temperature) for row in teacher])
    inter = 1 - sum(pearson(q[b], p[b]) for b in range(len(q))) / len(q)
    intra = 1 - sum(pearson(q[:, k], p[:, k]) for k in range(q.shape[1])) / q.shape[1]
    return temperature**2 * inter, temperature**2 * intra


def standardized(rows):
    return np.array([(r - r.mean()) / (r.std(ddof=1) + 1e-7) for r in np.asarray(rows)])


def cross_entropy(logits, labels):
    return -sum(math.log(softmax(row, 1)[y]) for row, y in zip(logits, labels, strict=True)) / len(labels)


def sigmoid_kl(student, teacher, temperature):
    """T^2 times the mean over images and labels of the divergence between two Bernoulli laws."""
    found = []
    for z_s, z_t in zip(np.ravel(student), np.ravel(teacher), strict=True):
        p, q = (1 / (1 + math.exp(-z / temperature)) for z in (z_t, z_s))
        found.append(kl([p, 1 - p], [q, 1 - q]))
    return temperature**2 * float(np.mean(found))
