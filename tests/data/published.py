"""Small files in the layouts in which public data sets are published, for the tests of their loaders."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from itertools import chain

import numpy as np
from scipy.io import savemat

from tests.data.pictures import encoded, picture


def jpeg(seed: int) -> bytes:
    return encoded(picture(seed, 16, 14), "JPEG")


def zipped(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def matlab(**arrays: object) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


def eurosat() -> dict[str, bytes]:
    files = {f"2750/{name}/{name}_{k}.jpg": jpeg(k) for name in ("Forest", "River") for k in (1, 2, 3)}
    return {"EuroSAT.zip": zipped(files)}


def flowers102() -> dict[str, bytes]:
    return {
        "102flowers.tgz": tarred({f"jpg/image_{k:05d}.jpg": jpeg(k) for k in range(1, 8)}),
        # the first three of torchvision's names are pink primrose, hard-leaved pocket orchid, canterbury bells
        "imagelabels.mat": matlab(labels=[[1, 2, 3, 1, 2, 3, 1]]),
        "setid.mat": matlab(trnid=[[1, 2, 3]], valid=[[4, 5]], tstid=[[6, 7]]),
    }


def pets() -> dict[str, bytes]:
    lists = {"trainval": ["Abyssinian_1 1 1 1", "beagle_2 2 2 1"], "test": ["Abyssinian_3 1 1 1", "beagle_4 2 2 1"]}
    files = {f"annotations/{name}.txt": "\n".join(lines).encode() for name, lines in lists.items()}
    images = {f"images/{line.split()[0]}.jpg": jpeg(k) for k, line in enumerate(chain(*lists.values()))}
    return {"images.tar.gz": tarred(images), "annotations.tar.gz": tarred(files | {"annotations/trimaps/x": b""})}


def food101() -> dict[str, bytes]:
    lists = {
        "train": {"pizza": ["pizza/1", "pizza/2"], "pho": ["pho/3"]},
        "test": {"pizza": ["pizza/4"], "pho": ["pho/5"]},
    }
    names = [name for part in lists.values() for found in part.values() for name in found]
    files = {f"food-101/meta/{part}.json": json.dumps(found).encode() for part, found in lists.items()}
    return {"food-101.tar.gz": tarred(files | {f"food-101/images/{n}.jpg": jpeg(k) for k, n in enumerate(names)})}


def dtd() -> dict[str, bytes]:
    lists = {
        "train1": ["banded/1.jpg", "woven/2.jpg"],
        "val1": ["banded/3.jpg", "woven/4.jpg"],
        "test1": ["banded/5.jpg"],
    }
    lists["test1"].append("woven/6.jpg")
    files = {f"dtd/labels/{part}.txt": "\n".join(names).encode() for part, names in lists.items()}
    images = {f"dtd/images/{name}": jpeg(k) for k, name in enumerate(chain(*lists.values()))}
    return {"dtd-r1.0.1.tar.gz": tarred(files | images)}


def gtsrb() -> dict[str, bytes]:
    train = {
        f"GTSRB/Training/{label:05d}/{track:05d}_{frame:05d}.ppm": encoded(picture(frame), "PPM")
        for label in (0, 1)
        for track in (0, 1)
        for frame in (0, 1, 2)
    }
    test = {f"GTSRB/Final_Test/Images/{k:05d}.ppm": encoded(picture(k), "PPM") for k in range(2)}
    table = "Filename;Width;Height;ClassId\n00000.ppm;12;12;1\n00001.ppm;12;12;0\n"
    return {
        "GTSRB-Training_fixed.zip": zipped(train),
        "GTSRB_Final_Test_Images.zip": zipped(test),
        "GTSRB_Final_Test_GT.zip": zipped({"GT-final_test.csv": table.encode()}),
    }


def country211() -> dict[str, bytes]:
    places = [f"{part}/{name}" for part in ("train", "valid", "test") for name in ("AD", "ZW")]
    return {"country211.tgz": tarred({f"country211/{place}/{k}.jpg": jpeg(k) for k, place in enumerate(places)})}


def imagenette() -> dict[str, bytes]:
    places = [f"{part}/{name}" for part in ("train", "val") for name in ("n01440764", "n03888257")]
    return {"imagenette2-160.tgz": tarred({f"imagenette2-160/{p}/{k}.JPEG": jpeg(k) for k, p in enumerate(places)})}


def uc_merced() -> dict[str, bytes]:
    files = {
        f"UCMerced_LandUse/Images/{n}/{n}0{k}.tif": encoded(picture(k), "TIFF")
        for n in ("beach", "river")
        for k in (1, 2)
    }
    return {"UCMerced_LandUse.zip": zipped(files | {"UCMerced_LandUse/readme.txt": b"words"})}


def resisc45() -> dict[str, bytes]:
    return {"NWPU-RESISC45.zip": zipped({f"NWPU-RESISC45/{n}/{n}_001.jpg": jpeg(1) for n in ("lake", "ship")})}


def plantvillage() -> dict[str, bytes]:
    top, names = (
        "Plant_leave_diseases_dataset_without_augmentation",
        ("Apple___healthy", "Background_without_leaves", "Corn"),
    )
    files = {f"{top}/{name}/image (1).JPG": jpeg(1) for name in names}
    return {f"{top.replace('leave', 'leaf')}.zip": zipped(files)}


def cassava() -> dict[str, bytes]:
    places = [f"{part}/{name}" for part in ("train", "test", "validation") for name in ("cbb", "healthy")]
    return {
        "cassavaleafdata.zip": zipped({f"cassavaleafdata/{place}/{k}.jpg": jpeg(k) for k, place in enumerate(places)})
    }


def colorectal() -> dict[str, bytes]:
    top = "Kather_texture_2016_image_tiles_5000"
    files = {
        f"{top}/{n}/{k}_CRC-Prim-HE-0{k}.tif_Row_1.tif": encoded(picture(k), "TIFF")
        for n in ("01_TUMOR", "08_EMPTY")
        for k in (1, 2)
    }
    return {f"{top}.zip": zipped(files)}


def medmnist(name: str, classes: int, *, grey: bool) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (classes, 28, 28) if grey else (classes, 28, 28, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(classes, dtype=np.uint8)[::-1, None]
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return {f"{name}.npz": file.getvalue()}
