"""Our number for each golden value that a loss or method of today can give.

``golden.json`` holds what the reference implementations gave (mdistiller, RepDistiller, hunto, LSKD and
others); it is never written by us. ``more.json`` holds what it lacks: DiffKD's, read off the reference run's table, and
SimKD's, which a transcript of its projector gave here. ``python -m tests.golden.rows`` prints ours beside theirs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from sapling import methods
from sapling.losses import (
    affinity_divergence,
    angle_error,
    attention_error,
    column_norm,
    decoupled,
    distance_error,
    inter_class,
    intra_class,
    kl_divergence,
    nuclear_norm,
    similarity_error,
    spatial_kl,
    standardize_logits,
)
from sapling.losses.classmaps import class_map_error
from sapling.losses.correlation import class_similarity, image_similarity
from sapling.losses.embeddings import mean_gap
from sapling.losses.gaussian import gaussian_nll
from sapling.losses.hierarchical import hierarchical_context
from sapling.losses.margins import partial_distance
from sapling.losses.regression import repeated_error
from sapling.types import Batch, Outputs, PairInfo, Step
from tests.golden.diffkd import reference_values

HERE = Path(__file__).parent
GOLDEN = {**json.loads((HERE / "golden.json").read_text()), **json.loads((HERE / "more.json").read_text())}


def draw(seed, shape, scale=1.0):
    """The fixed inputs of the reference runs."""
    values = (np.random.RandomState(seed).randn(*shape) * scale).astype(np.float32)
    return torch.from_numpy(values)


ZS, ZT = draw(1, (8, 10), 2), draw(2, (8, 10), 2)
Y = torch.from_numpy(np.random.RandomState(3).randint(0, 10, 8))
FS2, FT2 = draw(9, (8, 64, 4, 4)), draw(12, (8, 64, 4, 4))
A = draw(30, (8, 10, 8, 8))
STAGE_TAPS = ("stage2", "stage3", "stage4")
STAGE_SHAPES = ((16, 16, 16), (32, 8, 8), (64, 4, 4))
STAGES = [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
FS, FT = ([draw(seed + i, (8, *shape)) for i, shape in enumerate(STAGES)] for seed in (7, 10))


def after_relu(first_seed, shapes):
    """Three stage maps, as the references get them."""
    drawn = (draw(first_seed + i, (8, *shape)).relu() for i, shape in enumerate(shapes))
    return dict(zip(STAGE_TAPS, drawn, strict=True))


OURS, THEIRS = after_relu(7, STAGE_SHAPES), after_relu(10, STAGE_SHAPES)
LARGER = after_relu(13, ((24, 32, 32), (48, 16, 16), (96, 8, 8)))
EMBEDDED, TAUGHT = {"embedding": draw(4, (8, 16))}, {"embedding": draw(5, (8, 32))}


def total(name, student=None, teacher=None, **config):
    """Weighted sum of the terms beside ``ce``, through the method itself."""
    student, teacher = student or {}, teacher or {}
    shapes = ({tap: tuple(f.shape[1:]) for tap, f in side.items()} for side in (student, teacher))
    method = methods.build(name, PairInfo(10, 8, *shapes), **config)
    batch = Batch(torch.zeros(8, 3, 2, 2), Y, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    terms = method(Outputs(ZS, student), Outputs(ZT, teacher), batch, Step(progress=0.99))
    return sum(method.weights[k] * v for k, v in terms.items() if k != "ce")


def kd(**config):
    return total("kd", weights={"kd": 1}, **config)


def dkd(target, non_target, **config):
    return total("dkd", weights={"tckd": target, "nckd": non_target}, **config)


def dist(inter, intra, temperature):
    return total("dist", weights={"inter": inter, "intra": intra}, temperature=temperature)


def features(name, student, teacher, **weights):
    return total(name, student, teacher, weights=weights)


def predictions(mode):
    """1 - (1 - norm / B), as BNM takes the norm of the student's probabilities."""
    settings = {"base": "none", "tap": "predictions", "normalise": False, "weights": {"nuclear": 1}}
    return 1 - total("nuclear", mode=mode, **settings)


def vkd():
    """The method with the projector of the recipe: the Q of a QR decomposition."""
    info = PairInfo(10, 8, {"embedding": (16,)}, {"embedding": (32,)})
    method = methods.build("vkd", info)
    matrix = np.linalg.qr(np.random.RandomState(92).randn(32, 16).astype(np.float32)).Q
    method.projector.weight = torch.from_numpy(matrix)
    student, teacher = draw(4, (8, 16)), draw(5, (8, 32))
    batch = Batch(torch.zeros(8, 3, 2, 2), Y, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    outputs = Outputs(ZS, {"embedding": student}), Outputs(ZT, {"embedding": teacher})
    return method(*outputs, batch, Step(terms=("vkd",)))["vkd"].detach()


def class_maps(cells, *, normalise):
    student, teacher = {"class_map": A}, {"class_map": draw(31, (8, 10, 4, 4))}
    return total("cat_kd", student, teacher, weights={"cat": 1}, cells=cells, normalise=normalise)


def mgd():
    """The method with the given mask and nothing made of what is left."""
    method = methods.build("mgd", PairInfo(10, 8, {"stage4": (64, 4, 4)}, {"stage4": (64, 4, 4)}))
    method.generator = torch.nn.Identity()
    mask = torch.from_numpy(np.random.RandomState(90).rand(8, 64, 1, 1) >= 0.15).float()
    method.mask = lambda maps: mask
    return method.weights["mgd"] * term(method, "mgd", {"stage4": FS2}, {"stage4": FT2})


def norm(name, width=256):
    """The method with given parts; or with a classifier that gives the recipe's logits."""
    info = PairInfo(10, 8, {"last_map": (width, 4, 4)}, {"stage4": (64, 4, 4)})
    method = methods.build("norm", info, num_copies=4, weights={"kd": 1.0})
    if name == "norm":
        method.widen = torch.nn.Identity()
        return term(method, "norm", {"last_map": draw(91, (8, 256, 4, 4))}, {"stage4": FT2})
    method.narrow, method.classifier = torch.nn.Identity(), torch.nn.Identity()
    method.widen = torch.nn.Module()
    method.widen.forward = torch.zeros_like
    return term(method, "kd", {"last_map": ZS[:, :, None, None].expand(-1, -1, 4, 4)}, {"stage4": FT2})


def simkd(name, student, teacher):
    """The method with given convolutions and a given classifier."""
    own, wide = student.shape[1], teacher.shape[1]
    card = {"classifier.weight": draw(98, (10, wide), 0.2), "classifier.bias": draw(99, (10,))}
    shapes = ({"last_map": tuple(side.shape[1:])} for side in (student, teacher))
    method = methods.build("simkd", PairInfo(10, 8, *shapes, teacher_card=card), weights={"ce": 1, "feature": 1})
    for seed, layer, shape in ((95, 0, (wide // 2, own, 1, 1)), (96, 3, (wide // 2, wide // 2, 3, 3))):
        method.projector[layer].weight.data = draw(seed, shape, 0.2)
    method.projector[6].weight.data = draw(97, (wide, wide // 2, 1, 1), 0.2)
    batch = Batch(torch.zeros(8, 3, 2, 2), Y, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    return method(Outputs(ZS, {"last_map": student}), Outputs(ZT, {"last_map": teacher}), batch, Step())[name].detach()


def term(method, name, student, teacher):
    batch = Batch(torch.zeros(8, 3, 2, 2), Y, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    step = Step(progress=0.5, terms=(name,))
    return method(Outputs(ZS, student), Outputs(ZT, teacher), batch, step)[name].detach()


def unit(values):
    return values / values.norm(dim=1, keepdim=True)


def crd(num_steps):
    """The method with the recipe's projectors, banks and draws: the loss of a step, and Z after it."""
    info = PairInfo(10, 100, {"embedding": (16,)}, {"embedding": (32,)}, train_labels=torch.arange(100) % 10)
    method = methods.build("crd", info, negatives="memory", num_negatives=20, num_dimensions=8)
    for projector, weight in (
        (method.student_projector, draw(20, (8, 16), 0.2)),
        (method.teacher_projector, draw(21, (8, 32), 0.2)),
    ):
        projector.weight.data, projector.bias.data = weight, torch.zeros(8)
    method.banks.student, method.banks.teacher = unit(draw(22, (100, 8))), unit(draw(23, (100, 8)))
    drawn = torch.from_numpy(np.random.RandomState(25).randint(0, 100, (8, 20)))
    method.banks.draw = lambda labels: drawn
    indices = torch.from_numpy(np.random.RandomState(24).permutation(100)[:8])
    batch = Batch(torch.zeros(8, 3, 2, 2), Y, indices, torch.zeros(8, dtype=torch.int64))
    for _ in range(num_steps):
        loss = method(Outputs(ZS, EMBEDDED), Outputs(ZT, TAUGHT), batch, Step(terms=("crd",)))["crd"]
    return loss.detach(), method.banks.log_partitions.exp()


def diffkd(one, other):
    """Difference of two tensors of the reference run."""
    found = reference_values(draw)
    return found[one] - found[other]


ROWS = {
    "KD T=4 (mdistiller kd_loss)": lambda: kd(temperature=4),
    "KD T=1": lambda: kd(temperature=1),
    "DKD a=1 b=8 T=4": lambda: dkd(1, 8, temperature=4),
    "DKD TCKD only (a=1,b=0)": lambda: dkd(1, 0, temperature=4),
    "DKD NCKD only (a=0,b=1)": lambda: dkd(0, 1, temperature=4),
    "RepDistiller DistillKL T=4": lambda: kl_divergence(ZS, ZT, 4.0),
    "DIST b=1 g=1 tau=1": lambda: dist(1, 1, 1),
    "DIST b=1 g=1 tau=4": lambda: dist(1, 1, 4),
    "DIST inter only tau=4": lambda: inter_class(ZS, ZT, 4.0),
    "DIST intra only tau=4": lambda: intra_class(ZS, ZT, 4.0),
    "hunto KLDivergence tau=4 2-D": lambda: kl_divergence(ZS, ZT, 4.0),
    "hunto KLDivergence tau=4 on (8,10,1,1)": lambda: kl_divergence(ZS[:, :, None, None], ZT[:, :, None, None], 4.0),
    "hunto KLDivergence tau=1 on feature map stage3": lambda: kl_divergence(FS2, FT2, 1.0),
    "LSKD KD z-score T=2": lambda: kd(temperature=2, standardize=True),
    "LSKD KD no z-score T=2": lambda: kd(temperature=2),
    "LSKD DKD z-score a=1 b=8 T=2": lambda: dkd(1, 8, temperature=2, standardize=True),
    "ReviewKD hcl (3 same-shape stages)": lambda: sum(map(hierarchical_context, FS, FT)),
    "SRRL statm_loss stage3": lambda: mean_gap(FS2, FT2),
    "VkD smooth-L1": vkd,
    "CAT_loss res=2 no-norm": lambda: class_maps(2, normalise=False),
    "CAT_loss res=2 norm": lambda: class_maps(2, normalise=True),
    "CAT_loss res=4 norm": lambda: class_maps(4, normalise=True),
    "MGD identity generator, mask seed 90, alpha 7e-5 (FS2,FT2)": mgd,
    "NORM N=4 feature": lambda: norm("norm"),
    "NORM LN-logit KD T=4": lambda: norm("kd", width=10),
    "SimKD feature, student on the smaller grid (factor 2)": lambda: simkd("feature", FS2.relu(), LARGER["stage4"]),
    "SimKD feature, student on the larger grid (factor 2)": lambda: simkd("feature", OURS["stage3"], THEIRS["stage4"]),
    "SimKD cross-entropy behind the teacher's classifier": lambda: simkd("ce", FS2.relu(), LARGER["stage4"]),
    "DiffKD gamma of the first image": lambda: reference_values(draw)["gamma"][0],
    "DiffKD squared error of the latents": lambda: diffkd("refined", "latent").square().mean(),
    "DiffKD noise loss at 0, 100, 400, 999": lambda: reference_values(draw)["noise"],
    "DiffKD autoencoder": lambda: reference_values(draw)["autoencoder"],
    "DiffKD spread of the refined latent": lambda: reference_values(draw)["refined"].std(),
    "MLKD cc_loss T=4": lambda: class_similarity(ZS, ZT, 4.0),
    "MLKD bc_loss T=4": lambda: image_similarity(ZS, ZT, 4.0),
    "OFD feat_loss mdistiller margin=-0.5": lambda: partial_distance(FS2, FT2, torch.full((64,), -0.5)),
    "OFD distillation_loss official margin=-0.5": lambda: 8 * partial_distance(FS2, FT2, torch.full((64,), -0.5)),
    "VID identity regressor init_var=5 stage3": lambda: gaussian_nll(FS2, FT2, torch.full((64,), 5.0)),
    "CRD first step (fixed mem, K=20, N=100, d=8)": lambda: crd(1)[0],
    "CRD second step (same inputs, memory updated)": lambda: crd(2)[0],
    "CRD Z_v1": lambda: crd(1)[1][0],
    "CRD Z_v2": lambda: crd(2)[1][1],
    "CTKD T0": lambda: methods.build("ctkd", PairInfo(num_classes=10, num_samples=8)).temperature.detach(),
    "TAKD KL (reduction mean) *T^2, T=4": lambda: kl_divergence(ZS, ZT, 4.0, "mean"),
    "CompRess KLD on logits": lambda: kl_divergence(ZS, ZT, 1.0),
    "DML KL": lambda: kl_divergence(ZS, ZT, 1.0),
    "FDBD default: channel axis, mean over B,H,W (FS2,FT2)": lambda: kl_divergence(FS2, FT2, 1.0, "positionmean"),
    "CWD spatial tau=1 (FS2,FT2)": lambda: spatial_kl(FS2, FT2, 1.0),
    "CWD spatial tau=4 (FS2,FT2)": lambda: spatial_kl(FS2, FT2, 4.0),
    "AT p=2 same shapes (3 stages, relu feats)": lambda: features("at", OURS, THEIRS, at=1),
    "AT p=2 teacher 2x spatial": lambda: features("at", OURS, LARGER, at=1),
    "SP last stage (relu feats)": lambda: features("sp", OURS, LARGER, sp=1),
    "RKD d=25 a=50 (16 vs 32 dims)": lambda: features("rkd", EMBEDDED, TAUGHT),
    "RKD distance only w=1": lambda: features("rkd", EMBEDDED, TAUGHT, distance=1, angle=0),
    "RKD official distance": lambda: features("rkd", EMBEDDED, TAUGHT, distance=1, angle=0),
    "RKD angle only w=1": lambda: features("rkd", EMBEDDED, TAUGHT, distance=0, angle=1),
    "PKT": lambda: features("pkt", EMBEDDED, TAUGHT, pkt=1),
    "nuc norm of 8x16": lambda: nuclear_norm(draw(80, (8, 16))),
    "BNM = ||softmax(zs)||_* / B": lambda: predictions("max"),
    "FBNM mean of top-min(B,C) col norms": lambda: predictions("max_columns"),
}
# the same functions once more, free of the methods around them
PURE = {
    "CAT_loss res=2 norm": lambda: class_map_error(A, draw(31, (8, 10, 4, 4)), normalise=True),
    "NORM N=4 feature": lambda: repeated_error(draw(91, (8, 256, 4, 4)), FT2),
    "DKD a=1 b=8 T=4": lambda: sum(w * v for w, v in zip((1, 8), decoupled(ZS, ZT, Y, 4.0), strict=True)),
    "LSKD KD z-score T=2": lambda: kl_divergence(standardize_logits(ZS), standardize_logits(ZT), 2.0),
    "AT p=2 teacher 2x spatial": lambda: sum(attention_error(OURS[k], LARGER[k]) for k in STAGE_TAPS),
    "SP last stage (relu feats)": lambda: similarity_error(OURS["stage4"], LARGER["stage4"]),
    "RKD distance only w=1": lambda: distance_error(EMBEDDED["embedding"], TAUGHT["embedding"]),
    "RKD angle only w=1": lambda: angle_error(EMBEDDED["embedding"], TAUGHT["embedding"]),
    "PKT": lambda: affinity_divergence(EMBEDDED["embedding"], TAUGHT["embedding"]),
    "BNM = ||softmax(zs)||_* / B": lambda: nuclear_norm(ZS.softmax(1)) / 8,
    "FBNM mean of top-min(B,C) col norms": lambda: column_norm(ZS.softmax(1)) / 8,
}


OF_METHOD = {
    "KD ": "kd",
    "RepDistiller DistillKL": "kd",
    "hunto KLDivergence": "kd",
    "LSKD KD": "kd",
    "TAKD": "kd",
    "CompRess": "kd",
    "DML": "kd",
    "DKD": "dkd",
    "LSKD DKD": "dkd",
    "DIST": "dist",
    "ReviewKD": "reviewkd",
    "SRRL": "srrl",
    "VkD": "vkd",
    "CAT": "cat_kd",
    "MGD": "mgd",
    "NORM": "norm",
    "SimKD": "simkd",
    "DiffKD": "diffkd",
    "MLKD": "mlkd",
    "OFD": "ofd",
    "VID": "vid",
    "CRD": "crd",
    "CTKD": "ctkd",
    "FDBD": "fdbd",
    "CWD": "fdbd",
    "AT ": "at",
    "SP ": "sp",
    "RKD": "rkd",
    "PKT": "pkt",
    "nuc norm": "nuclear",
    "BNM": "nuclear",
    "FBNM": "nuclear",
}
"""How the name of a golden value begins, and the method whose loss it is."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "golden.md"
ABOUT = """\
# Golden values

What the reference implementations say of fixed inputs, and what ours say. Written by `python -m tests.golden.rows
--write-docs`; `tests/golden` allows a relative error of 1e-5 and checks that this page is current. The inputs are
drawn from seeds by numpy (`tests/golden/rows.py`). Most values come from calling the reference's code; those of FDBD,
CWD, TAKD, MGD, NORM, VkD, DML, CTKD, BNM, FBNM and the nuclear norm were computed from the formula that was read in it,
and those of SimKD by a transcript of its projector. No value was at hand for `attention_guided`, `byot`, `cosine`,
`kdpp` and `ps_kd`; `function_matching` is `kd`. The margins of `ofd` are ours (running means of what is below 0) and
have none; `mlkd` and `norm` differ where their pages say so. "FDBD default" is
the paper's distance (`feat_loss: kl_channel`), no longer the default. Each method's own test holds its formula
once more in plain numpy or loops.

| method | golden value | reference | ours | relative error |
|---|---|---|---|---|
"""


def method_of(name):
    """The longest beginning that fits decides."""
    return OF_METHOD[max((begin for begin in OF_METHOD if name.startswith(begin)), key=len)]


def measured():
    """Name, method, reference and ours of every row, by method."""
    found = [(name, method_of(name), GOLDEN[name], float(row())) for name, row in ROWS.items()]
    return sorted(found, key=lambda row: row[1])  # stable


def relative(theirs, ours):
    return abs(ours - theirs) / abs(theirs)


def page():
    """The text of docs/methods/golden.md."""
    lines = []
    for name, method, theirs, ours in measured():
        title = name.replace("|", r"\|")
        lines.append(f"| `{method}` | {title} | {theirs:.8g} | {ours:.8g} | {relative(theirs, ours):.0e} |")
    return ABOUT + "\n".join(lines) + "\n"


def main(arguments):
    if "--write-docs" in arguments:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"wrote {PAGE}")
        return
    print(f"{'golden value':56} {'ours':>12} {'reference':>12} {'relative':>9}")
    for name, _, theirs, ours in measured():
        print(f"{name:56} {ours:12.8g} {theirs:12.8g} {relative(theirs, ours):9.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])
