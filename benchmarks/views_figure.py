"""Draw docs/images/views.png: what every preset makes of two EuroSAT images (Helber et al. 2019, MIT licence).

python benchmarks/views_figure.py eurosat_rgb.zip [--output docs/images/views.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from sapling.data.loader import load_data
from sapling.data.mixing import draw_mix, mix_images
from sapling.data.mixspec import MixSpec
from sapling.data.views import PRESETS, make_views

SIDE, GAP, LABEL, VIEWS = 64, 3, 100, 5
IMAGES = ("Highway/Highway_1043.jpg", "River/River_1043.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--output", type=Path, default=Path("docs/images/views.png"))
    options = parser.parse_args()
    data = load_data(options.data, img_size=SIDE)
    keys = [item.key for item in data.source.items]
    chosen = [next(k for k, key in enumerate(keys) if key.endswith(name)) for name in IMAGES]
    index = torch.tensor(chosen).repeat_interleave(VIEWS)
    stored = torch.from_numpy(np.asarray(data.store.images[index.numpy()]))
    numbers = torch.arange(VIEWS).repeat(len(chosen))
    rows = {}
    for name, spec in PRESETS.items():
        rows[name] = make_views(stored, index, numbers, spec=spec, view_seed=0, img_size=SIDE)
    # neighbours in the batch must be different images to be worth mixing
    turn = torch.arange(2 * VIEWS).view(2, VIEWS).t().reshape(-1)
    for name, spec in {"mixup 0.4": MixSpec(mixup=0.4), "cutmix 1": MixSpec(cutmix=1.0)}.items():
        mix = draw_mix(spec, seed=0, epoch=0, number=0, batch=2 * VIEWS, img_size=SIDE)
        mixed = mix_images(rows["light"][turn].float(), mix)[turn.argsort()]
        rows[name] = mixed.round().to(torch.uint8)
    step = SIDE + GAP
    page = Image.new("RGB", (LABEL + 2 * VIEWS * step + GAP, len(rows) * step + GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for row, (name, views) in enumerate(rows.items()):
        draw.text((4, row * step + step // 2 - 8), name, fill="black", font=font)
        for column, view in enumerate(views):
            left = LABEL + column * step + (GAP if column >= VIEWS else 0)
            page.paste(Image.fromarray(view.permute(1, 2, 0).contiguous().numpy()), (left, row * step + GAP))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(255, dither=Image.Dither.NONE).save(options.output, optimize=True)
    print(options.output, options.output.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
