"""One pydantic model per YAML block. The library call, the YAML file and the flags all end here; no torch.

A block may be written short: ``data: photos.zip`` is ``data: {source: photos.zip}``, ``teacher: resnet18`` is
``teacher: {model: resnet18}``, ``method: kd`` is ``method: {name: kd}``, ``method: [kd, at]`` is ``method: {name:
kd+at}``, ``output: runs/x`` is ``output: {folder: runs/x}``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from sapling.assignments import parse_assignment as parse_assignment
from sapling.assignments import read_yaml, with_value
from sapling.bands import parse_bands, parse_range
from sapling.config_errors import explain
from sapling.config_history import YOUNGER, with_floats
from sapling.data.listing import Columns
from sapling.data.viewspec import VIEW_PRESETS, checked_options, preset
from sapling.errors import ConfigError, nearest
from sapling.methods.combination import DEFAULT_METHOD, arm_of, key_of, opened, split_name
from sapling.methods.validate import check_config
from sapling.trackers import TRACKERS, parse_trackers

RECIPES: dict[str, dict[str, float]] = {
    "plain": {},
    "mixed": {"mixup": 0.8, "cutmix": 1.0, "ema_decay": 0.999},
}
AUTO = "auto"  # a teacher that is chosen for the student and the size of the images
SHORT_FORMS = {"data": "source", "teacher": "model", "student": "model", "method": "name", "output": "folder"}


class Block(BaseModel):
    """A block of settings: unknown keys are refused, values cannot be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Block):
    """Which images, at which size, seen how."""

    source: str = Field(description="folder, zip file, CSV file, 'digits' or a public set: sapling datasets")
    img_size: int | None = Field(None, ge=8, le=1024, description="side in pixels; None: chosen from the images")
    store_size: int | None = Field(None, ge=8, le=1280, description="short side in the packed store")
    views: str = Field("auto", description=f"augmentation: auto, {', '.join(VIEW_PRESETS)}")
    view_options: dict[str, Any] = Field({}, description="single settings of the views, such as {flip: false}")
    view_seed: int = Field(0, ge=0, description="seed of the augmentation; belongs to the data")
    num_views: int = Field(
        0, ge=0, le=4096, description="different views per image; 0: 16 if answers are kept, else one every epoch"
    )
    mixup: float = Field(0.0, ge=0, le=100, description="alpha of mixup; 0: off")
    cutmix: float = Field(0.0, ge=0, le=100, description="alpha of CutMix; 0: off")
    mix_share: float = Field(1.0, ge=0, le=1, description="probability that an image is mixed")
    val_share: float = Field(0.15, gt=0, lt=0.9, description="share cut off for validation")
    test_share: float = Field(0.15, gt=0, lt=0.9, description="share cut off for test")
    split_seed: int = Field(0, ge=0, description="seed of the split")
    group_pattern: str | None = Field(None, description="regular expression that names an image's group")
    on_bad_image: Literal["fail", "skip"] = Field("skip", description="skip: leave out up to 1 % that are broken")
    split_file: str | None = Field(None, description="CSV file key,split, such as split.csv of another run")
    bands: Annotated[tuple[int, ...] | Literal["rgb"] | None, BeforeValidator(parse_bands)] = Field(
        None, description="bands that become channels, from 1, such as [4, 3, 2], or rgb; None: all"
    )
    value_range: Annotated[tuple[float, float] | None, BeforeValidator(parse_range)] = Field(
        None, description="values that become black and white, such as [0, 3000]; None: by the type and the images"
    )
    image_column: str = Field("image", min_length=1, description="column of the CSV file that names the images")
    label_column: str = Field("label", min_length=1, description="column of the CSV file that names their classes")
    group_column: str | None = Field(None, min_length=1, description="column of the CSV file that names groups")
    multi_label: bool | Literal["auto"] = Field(
        "auto", description="whether an image may have several labels (a;b in the CSV file); auto: as soon as one does"
    )

    @field_validator("view_options", mode="after")
    @classmethod
    def _options_fit(cls, options: dict[str, Any]) -> dict[str, Any]:
        try:
            found = checked_options(options)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        # as they stand in YAML and JSON, and 1 and 1.0 are one setting
        return {name: list(value) if isinstance(value, tuple) else value for name, value in sorted(found.items())}

    allow_leaks: bool = Field(False, description="train on although test images were seen in training")

    @model_validator(mode="after")
    def _settings_fit(self) -> DataConfig:
        if self.views not in ("auto", *VIEW_PRESETS):
            hint = nearest(self.views, VIEW_PRESETS)
            raise ValueError(f"views {self.views!r} is unknown; allowed: auto, {', '.join(VIEW_PRESETS)}. {hint}")
        try:
            preset(VIEW_PRESETS[0] if self.views == "auto" else self.views, self.view_options)
        except ConfigError as error:
            raise ValueError(f"view_options: {error.what}; allowed: {error.allowed}") from None
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share + test_share must stay below 1, or nothing is left to train on")
        others = [k for k in ("val_share", "test_share", "split_seed") if self.split_file and self._is_set(k)]
        if others:
            raise ValueError(f"split_file holds the whole split: {' and '.join(others)} can change nothing")
        if self.group_column is not None and self.group_pattern is not None:
            raise ValueError("group_column and group_pattern both say what a group is: give one of them")
        return self

    @property
    def columns(self) -> Columns:
        """Names of the columns of a CSV file of images."""
        several = None if self.multi_label == "auto" else self.multi_label
        return Columns(self.image_column, self.label_column, self.group_column, several)

    def _is_set(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)


class TrainConfig(Block):
    """How students are trained; the teacher too, where its own block does not say otherwise."""

    epochs: int | None = Field(None, ge=1, le=100_000, description="None: about 4,500 steps, 15 to 100 epochs")
    batch_size: int = Field(64, ge=2, le=65_536, description="images per step")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd is with Nesterov momentum")
    lr: float | None = Field(None, gt=0, le=100, description="None: 0.05 (sgd) or 0.002 (adamw) x batch/64")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(5e-4, ge=0, le=10, description="not on biases and norms")
    schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="of the learning rate")
    warmup_epochs: float = Field(1.0, ge=0, description="linear warm-up")
    step_epochs: int = Field(30, ge=1, description="for schedule step: epochs between drops")
    step_factor: float = Field(0.1, gt=0, le=1, description="for schedule step: factor of a drop")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; None: not clipped")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="of a moving average of the weights, which is kept")
    imbalance: Literal["none", "sampler", "class_weights", "logit_adjustment"] = Field(
        "none", description="what is done for rare classes, in every member and the teacher trained here"
    )
    imbalance_power: float = Field(1.0, gt=0, le=4, description="how strongly: 1 whole, 0.5 half way; tau")
    layer_decay: float | None = Field(None, gt=0, le=1, description="share of the next layer's rate; None: all alike")
    half_size_share: float = Field(0.0, ge=0, le=0.9, description="share of epochs, the first, at half the image side")
    seed: int = Field(0, ge=0, le=2**29, description="first seed: initial weights, batch order, view offset")
    num_seeds: int = Field(3, ge=1, le=100, description="replicates: seeds seed, seed + 1, ..")
    members_per_pass: int | None = Field(None, ge=1, description="trained at a time; None: as many as memory holds")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 where the processor has it")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:0")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; None: what torch takes")

    @model_validator(mode="after")
    def _power_fits(self) -> TrainConfig:
        if self.imbalance == "none" and self.imbalance_power != 1:
            raise ValueError("imbalance_power can change nothing while imbalance is none")
        if self.imbalance in ("sampler", "class_weights") and self.imbalance_power > 1:
            raise ValueError(f"imbalance_power above 1 makes rare classes the frequent ones with {self.imbalance}")
        return self


class TeacherConfig(Block):
    """The teacher: a name is trained here, a path is loaded."""

    model: str = Field(AUTO, description="auto, name, run or model folder, .safetensors, NAME=weights.pth; A,B: both")
    pretrained: bool = Field(False, description="start from the published weights of that timm name")
    freeze_backbone: bool = Field(False, description="of published weights train the classifier alone")
    recipe: Literal["plain", "mixed"] = Field("plain", description="mixed: mixup, CutMix, average, 2 x the epochs")
    epochs: int | None = Field(None, ge=1, description="None: as for the students (2 x with the recipe mixed)")
    lr: float | None = Field(None, gt=0, description="None: as for the students")
    weight_decay: float | None = Field(None, ge=0, description="None: as for the students")
    views: str | None = Field(None, description="augmentation while it is trained here; None: data.views")
    mixup: float | None = Field(None, ge=0, le=100, description="alpha of mixup; None: data.mixup")
    cutmix: float | None = Field(None, ge=0, le=100, description="alpha of CutMix; None: data.cutmix")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="as train.ema_decay, for the teacher")
    layer_decay: float | None = Field(None, gt=0, le=1, description="None: as for the students")
    img_size: int | None = Field(None, ge=8, le=1024, description="of weights alone; None: as the students'")
    mean: list[float] | None = Field(None, min_length=1, description="of weights alone; None: timm's for the network")
    std: list[float] | None = Field(None, min_length=1, description="of weights alone; None: timm's for the network")
    num_teachers: int = Field(
        1, ge=1, le=32, description="so many are trained here; they answer with their mean logits"
    )
    symmetrise: bool = Field(False, description="answer with the mean logits over the symmetries of the data's views")
    cross_fit: bool = Field(False, description="answer a training image by the one teacher that never trained on it")
    cache: Literal["auto", "on", "off"] = Field(
        "auto", description="keep its answers to num_views views instead of asking for each batch; auto: if it pays"
    )
    accept_weak: bool = Field(False, description="train on although the gate failed")

    def by_recipe(self) -> TeacherConfig:
        """These settings, with what the recipe says where nothing else is set (``epochs``: see ``epoch_factor``)."""
        usual = RECIPES[self.recipe]
        return self.model_copy(update={k: v for k, v in usual.items() if getattr(self, k) is None})

    @property
    def epoch_factor(self) -> int:
        """So many times the students' epochs, where ``epochs`` is not set."""
        return 1 if self.recipe == "plain" else 2

    @model_validator(mode="after")
    def _settings_fit(self) -> TeacherConfig:
        _refuse_random_features(self.freeze_backbone, self.pretrained)
        if self.cross_fit and self.num_teachers < 2:
            raise ValueError("cross_fit needs num_teachers of 2 or more: one teacher per fold of the training images")
        return self

    @field_validator("views", mode="after")
    @classmethod
    def _views_exist(cls, views: str | None) -> str | None:
        if views is not None and views not in VIEW_PRESETS:
            raise ValueError(
                f"{views!r} is unknown; allowed: {', '.join(VIEW_PRESETS)}. {nearest(views, VIEW_PRESETS)}"
            )
        return views


class StudentConfig(Block):
    """The student."""

    model: str = Field("cnn3", description="timm name or cnn3, cnn4")
    pretrained: bool = Field(False, description="start from the published weights of that timm name")
    freeze_backbone: bool = Field(False, description="of published weights train the classifier alone")

    @model_validator(mode="after")
    def _settings_fit(self) -> StudentConfig:
        _refuse_random_features(self.freeze_backbone, self.pretrained)
        return self


def _refuse_random_features(freeze_backbone: bool, pretrained: bool) -> None:
    if freeze_backbone and not pretrained:
        raise ValueError("freeze_backbone without pretrained would keep random features; set pretrained: true as well")


class MethodBlock(BaseModel):
    """Name of the method, and its own settings beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(DEFAULT_METHOD, description="see sapling methods; several at once: kd+at")

    @property
    def options(self) -> dict[str, Any]:
        """The block without ``name``: exactly the method's ``Config``."""
        return dict(self.model_extra or {})

    @property
    def arm(self) -> str:
        """What the run calls its distilled students."""
        return arm_of(self.name)


class TuningTrials(Block):
    """How many settings were tried before this run, of each arm."""

    control: int = Field(0, ge=0)
    method: int = Field(0, ge=0)


class EvaluateConfig(Block):
    """What is measured."""

    batch_size: int = Field(256, ge=1, description="images per forward pass in evaluation")
    measure: Literal["auto", "top1", "macro_recall"] = Field("auto", description="auto: macro recall above 5:1")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of intervals")
    tuning_trials: TuningTrials = Field(TuningTrials(), description="settings tried before: {control: 8, method: 8}")


class DeployConfig(Block):
    """What is made for the device."""

    onnx: bool = Field(True, description="export the shipped student and check it")
    parity_images: int = Field(64, ge=2, le=512, description="real images on which ONNX and torch are compared")
    latency_seconds: float = Field(1.0, ge=0, le=60, description="of timing per network and batch; 0: ONNX file only")


class OutputConfig(Block):
    """Where results go."""

    folder: str | None = Field(None, description="None: runs/<data>-<student>-<method>")
    pictures: int = Field(8, ge=0, le=24, description="test images of a kind in the report; 0: the page shows none")
    trackers: Annotated[tuple[str, ...], BeforeValidator(parse_trackers)] = Field(
        (), description=f"programs that get every row too: {', '.join(TRACKERS)}"
    )


class RunConfig(Block):
    """All settings of a run."""

    data: DataConfig
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    method: MethodBlock = MethodBlock()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    deploy: DeployConfig = DeployConfig()
    output: OutputConfig = OutputConfig()

    def fingerprint(self) -> str:
        """sha256 of everything that can change a result (so without ``output`` and what only lets a run go on)."""
        go_on = {"teacher": {"accept_weak"}, "data": {"allow_leaks"}, "train": {"members_per_pass"}}
        content = self.model_dump(mode="json", exclude={"output": True, **go_on})
        # alpha: 1 and alpha: 1.0 are one setting
        parts = [key_of(part) for part in split_name(self.method.name)]
        content["method"] = with_floats(content["method"], parts if len(parts) > 1 else ())
        for block, defaults in YOUNGER.items():
            content[block] = {k: v for k, v in content[block].items() if k not in defaults or v != defaults[k]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def default_folder(self, task: str = "distill") -> str:
        """``runs/<data>-<student>-<method>``, or ``runs/<data>-<model>`` for plain training."""
        data = Path(self.data.source.rstrip("/\\")).stem or "data"
        parts = [[data], [self.student.model.removeprefix("sapling_")]]
        if task == "distill":
            parts.append([arm_of(name) for name in split_name(self.method.name)])
        return "runs/" + "-".join("+".join(re.sub(r"[^\w.]+", "_", p) for p in part) for part in parts)


def build(blocks: Mapping[str, Any], *, where: str = "settings") -> RunConfig:
    """Check ``blocks`` and make a ``RunConfig`` of them.

    Raises:
        ConfigError: with every error at once, each with the nearest field.
    """
    full: dict[str, Any] = {}
    for key, value in blocks.items():
        short = SHORT_FORMS.get(key)
        if value is None:
            continue
        full[key] = {short: str(value)} if short and isinstance(value, str | Path) else value
    full |= {"method": opened(full["method"])} if "method" in full else {}
    problems: list[str] = []
    config: RunConfig | None = None
    try:
        config = RunConfig.model_validate(full)
    except ValidationError as error:
        problems += [explain(e, RunConfig) for e in error.errors()]
    method = full.get("method", {})
    if isinstance(method, Mapping) and isinstance(method.get("name", DEFAULT_METHOD), str):
        options = {k: v for k, v in method.items() if k != "name"}
        problems += [f"method.{p}" for p in check_config(method.get("name", DEFAULT_METHOD), options)]
    if problems or config is None:
        count = f"{len(problems)} settings are" if len(problems) > 1 else "1 setting is"
        raise ConfigError(f"{count} wrong:\n" + "\n".join(f"  - {p}" for p in problems), where=where)
    return config


def load(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of blocks (safe loader: no code).

    Raises:
        ConfigError: the file is missing, no YAML, or no mapping of blocks.
    """
    file = Path(path)
    try:
        content = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"cannot read the settings file: {reason}", where=str(file)) from None
    except ValueError as error:
        raise ConfigError(f"the settings file is not valid YAML: {error}", where=str(file)) from None
    if not isinstance(content, dict):
        raise ConfigError(
            "the settings file holds no blocks", where=str(file), allowed=", ".join(RunConfig.model_fields)
        )
    # config.yaml of a run is such a file, too: its fingerprint is no setting
    return {str(k): v for k, v in content.items() if k != "fingerprint"}


def override(blocks: Mapping[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """``blocks`` with ``{"train.lr": 0.1}``-style assignments applied; short forms are opened first."""
    result: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in blocks.items()}
    if isinstance(result.get("method"), list | tuple):
        result["method"] = opened(result["method"])
    for path, value in assignments.items():
        block, _, key = path.partition(".")
        if not key:
            block, key = path, SHORT_FORMS.get(path, "")
        if not key:
            raise ConfigError(
                f"{path!r} is no setting", allowed="block.name, for example train.lr", remedy=nearest(path, _paths())
            )
        inner = result.get(block)
        if not isinstance(inner, dict):
            inner = {SHORT_FORMS[block]: inner} if block in SHORT_FORMS and inner is not None else {}
        result[block] = with_value(inner, key.split("."), value)
    return result


def save(config: RunConfig) -> str:
    """The settings as YAML text that ``load`` reads back."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _paths() -> list[str]:
    blocks = RunConfig.model_fields
    return [f"{b}.{f}" for b in blocks for f in getattr(blocks[b].annotation, "model_fields", {})]
