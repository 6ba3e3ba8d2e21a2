"""The commands that train: ``distill``, ``train``, ``demo``; :mod:`sapling.cli` registers them. No torch here."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sapling.errors import DataError, SaplingError, UsageError
from sapling.screen import Screen

if TYPE_CHECKING:
    from sapling.config import RunConfig

Data = Annotated[
    str | None,
    typer.Argument(help="Folder or zip, one folder per class; a CSV image,label; or a name: sapling datasets."),
]
Epochs = Annotated[int | None, typer.Option(help="Epochs; by itself about 4,500 steps, 15 to 100 epochs.")]
BatchSize = Annotated[int | None, typer.Option("-b", "--batch-size", help="Images per step (64).")]
Lr = Annotated[float | None, typer.Option(help="Learning rate (0.05 for sgd, 0.002 for adamw, at batch 64).")]
ImgSize = Annotated[int | None, typer.Option(help="Image side in pixels; by itself chosen from the images.")]
Groups = Annotated[str | None, typer.Option(help="Regular expression: images of one group stay in one split.")]
GroupColumn = Annotated[str | None, typer.Option(help="Column of the CSV file: images of one group stay together.")]
OnBadImage = Annotated[str | None, typer.Option(help="fail, or skip: leave out up to 1 % that are broken (skip).")]
SplitFile = Annotated[str | None, typer.Option("--split", help="CSV file key,split: split.csv of another run.")]
Views = Annotated[str | None, typer.Option(help="none, shift, light, aerial, photo, strong or aerial_strong.")]
Mixup = Annotated[float | None, typer.Option(help="Alpha of mixup; 0 is off (0).")]
Cutmix = Annotated[float | None, typer.Option(help="Alpha of CutMix; 0 is off (0).")]
Bands = Annotated[str | None, typer.Option(help="Bands that are used, from 1: 4,3,2, or rgb (all).")]
ValueRange = Annotated[str | None, typer.Option(help="Values that become black and white: 0,3000.")]
AllowLeaks = Annotated[bool, typer.Option("--allow-leaks", help="Go on if test images were seen in training.")]
Imbalance = Annotated[str | None, typer.Option(help="none, sampler, class_weights or logit_adjustment (none).")]
TeacherCache = Annotated[str | None, typer.Option(help="Keep the teacher's answers to 16 views: auto, on, off (auto).")]
Seed = Annotated[int | None, typer.Option(help="First seed (0).")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:0.")]
Amp = Annotated[str | None, typer.Option(help="Precision of forward passes: auto, bf16, fp32.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Start from published weights (needs the network).")]
Freeze = Annotated[bool, typer.Option("--freeze-backbone", help="Of published weights train the classifier alone.")]
Output = Annotated[str | None, typer.Option("-o", "--output", help="Run folder (runs/<data>-<student>-<method>).")]
Track = Annotated[list[str] | None, typer.Option(help="Show it there too: tensorboard, wandb, mlflow; repeatable.")]
Config = Annotated[str | None, typer.Option("-c", "--config", help="YAML file of settings; flags win over it.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting: block.name=value; may be repeated.")]
Resume = Annotated[str | None, typer.Option(help="Go on with this run folder, by its own settings.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show plan, sizes and a time estimate; train nothing.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print the result only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def distill(
    data: Data = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Name to train here, trained model, NAME=weights.pth; several: A,B (auto: by student, size)."
        ),
    ] = None,
    student: Annotated[str | None, typer.Option(help="cnn3, cnn4 or any timm name.")] = None,
    teachers: Annotated[
        int | None, typer.Option(min=1, help="Train so many teachers, which answer with their mean (1).")
    ] = None,
    teacher_recipe: Annotated[
        str | None, typer.Option(help="Of teachers trained here: plain, or mixed (mixup, CutMix, average, 2 x epochs).")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Of sapling methods (dist); several at once: kd+at.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many replicates (3).")] = None,
    epochs: Epochs = None,
    teacher_epochs: Annotated[int | None, typer.Option(help="Epochs of a teacher that is trained here.")] = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the labels; 1 - alpha is the teacher's.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Softmax temperature of the method.")] = None,
    img_size: ImgSize = None,
    views: Views = None,
    mixup: Mixup = None,
    cutmix: Cutmix = None,
    group_pattern: Groups = None,
    group_column: GroupColumn = None,
    on_bad_image: OnBadImage = None,
    split_file: SplitFile = None,
    bands: Bands = None,
    value_range: ValueRange = None,
    allow_leaks: AllowLeaks = False,
    imbalance: Imbalance = None,
    seed: Seed = None,
    device: Device = None,
    amp: Amp = None,
    threads: Threads = None,
    teacher_cache: TeacherCache = None,
    members_per_pass: Annotated[
        int | None, typer.Option(min=1, help="Students trained at a time; by itself as many as memory holds.")
    ] = None,
    accept_weak_teacher: Annotated[
        bool, typer.Option("--accept-weak-teacher", help="Go on if the gate fails.")
    ] = False,
    output: Output = None,
    track: Track = None,
    config: Config = None,
    set_: Set = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Distil a student: checked teacher, student, control, verdict, report, ONNX.

    Example: sapling distill photos/ --teacher resnet34 --student cnn3 --method dist
    """
    flags = {
        "data.source": data,
        "data.img_size": img_size,
        "data.views": views,
        "data.mixup": mixup,
        "data.cutmix": cutmix,
        "data.group_pattern": group_pattern,
        "data.group_column": group_column,
        "data.on_bad_image": on_bad_image,
        "data.split_file": split_file,
        "data.bands": bands,
        "data.value_range": value_range,
        "data.allow_leaks": allow_leaks or None,
        "teacher.model": teacher,
        "teacher.epochs": teacher_epochs,
        "teacher.num_teachers": teachers,
        "teacher.recipe": teacher_recipe,
        "teacher.cache": teacher_cache,
        "teacher.accept_weak": accept_weak_teacher or None,
        "student.model": student,
        "method.name": method,
        "method.alpha": alpha,
        "method.temperature": temperature,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.imbalance": imbalance,
        "train.seed": seed,
        "train.num_seeds": seeds,
        "train.device": device,
        "train.precision": amp,
        "train.threads": threads,
        "train.members_per_pass": members_per_pass,
        "output.folder": output,
        "output.trackers": track or None,
    }
    settings = _settings(flags, config, set_, resume, "distill")
    _run("distill", settings, dry_run=dry_run, quiet=quiet, where=config or "settings")


def train(
    data: Data = None,
    model: Annotated[str | None, typer.Option(help="cnn3, cnn4 or any timm name (resnet18).")] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    img_size: ImgSize = None,
    views: Views = None,
    mixup: Mixup = None,
    cutmix: Cutmix = None,
    group_pattern: Groups = None,
    group_column: GroupColumn = None,
    on_bad_image: OnBadImage = None,
    split_file: SplitFile = None,
    bands: Bands = None,
    value_range: ValueRange = None,
    allow_leaks: AllowLeaks = False,
    imbalance: Imbalance = None,
    seed: Seed = None,
    device: Device = None,
    amp: Amp = None,
    threads: Threads = None,
    pretrained: Pretrained = False,
    freeze_backbone: Freeze = False,
    layer_decay: Annotated[float | None, typer.Option(help="Share of the next layer's learning rate.")] = None,
    output: Output = None,
    track: Track = None,
    config: Config = None,
    set_: Set = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train one classifier: a teacher, or a student alone.

    Example: sapling train photos/ --model resnet34
    """
    flags = {
        "data.source": data,
        "data.img_size": img_size,
        "data.views": views,
        "data.mixup": mixup,
        "data.cutmix": cutmix,
        "data.group_pattern": group_pattern,
        "data.group_column": group_column,
        "data.on_bad_image": on_bad_image,
        "data.split_file": split_file,
        "data.bands": bands,
        "data.value_range": value_range,
        "data.allow_leaks": allow_leaks or None,
        "student.model": model or (None if config or resume else "resnet18"),
        "student.pretrained": pretrained or None,
        "student.freeze_backbone": freeze_backbone or None,
        "train.layer_decay": layer_decay,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.imbalance": imbalance,
        "train.seed": seed,
        "train.device": device,
        "train.precision": amp,
        "train.threads": threads,
        "output.folder": output,
        "output.trackers": track or None,
    }
    settings = _settings(flags, config, set_, resume, "train")
    _run("train", settings, dry_run=dry_run, quiet=quiet, where=config or "settings")


def demo(
    output: Annotated[str, typer.Option("-o", "--output", help="Run folder.")] = "runs/demo",
    quiet: Quiet = False,
) -> None:
    """Everything on scikit-learn's digits, end to end, in about a minute."""
    from sapling.workflows.demo import demo_blocks

    _run("distill", {**demo_blocks(), "output": output}, dry_run=False, quiet=quiet)


def _settings(
    flags: dict[str, Any], config: str | None, assignments: list[str] | None, resume: str | None, task: str
) -> dict[str, Any]:
    """Blocks from --config or --resume, then --set, then flags."""
    from sapling import config as settings

    given = {k: v for k, v in flags.items() if v is not None}
    if resume is not None:
        if set(given) - {"student.model", "method.name"} or config or assignments:
            raise UsageError(
                "--resume goes on with a run by its own settings; other settings make no sense beside it",
                remedy=f"sapling {task} --resume {resume}",
            )
        from sapling.run_folders import load_run_config, refuse_code

        blocks, named = load_run_config(resume), given.get("method.name")
        refuse_code(blocks, named=named, remedy=f"sapling {task} --resume {quote(resume)}")
        return {**blocks, "output": resume}
    blocks = settings.load(config) if config else {}
    blocks = settings.override(blocks, dict(settings.parse_assignment(a) for a in assignments or []))
    blocks = settings.override(blocks, given)
    if "data" not in blocks:
        raise UsageError(
            "no data is given",
            allowed="a folder or zip with one folder per class, a CSV file image,label, or a name: sapling datasets",
            remedy=f"sapling {task} DATA, or sapling demo to see it work",
        )
    return blocks


def _run(task: str, blocks: dict[str, Any], *, dry_run: bool, quiet: bool, where: str = "settings") -> None:
    from sapling.config import build
    from sapling.run_folders import is_this_run, refuse_foreign_folder, run_folder, stamp_of
    from sapling.trackers import check_trackers

    config: RunConfig = build(blocks, where=where)
    folder, d = run_folder(config, task), config.data
    refuse_foreign_folder(Path(folder))
    check_trackers(config.output.trackers)
    screen = Screen(quiet=quiet)
    if not dry_run:
        usual = config.default_folder(task)
        numbered = config.output.folder is None and folder != usual
        screen.say(f"sapling {task}: {d.source} -> {folder}" + f" ({usual} is taken)" * numbered)
        if is_this_run(Path(folder), config, task) and not Path(folder, "results.json").is_file():
            screen.say("this run was begun before: it goes on where it was")
    # below the first line, because these bring numpy and Pillow
    from sapling.data.broken import most_skipped
    from sapling.data.groups import with_groups
    from sapling.data.sources import open_source
    from sapling.data.splitfile import read_split
    from sapling.data.splits import make_split
    from sapling.tables import print_plan, print_result
    from sapling.workflows.conflicts import check_method_fits, known_needs

    if task == "distill" and (needs := known_needs(config)) is not None:
        check_method_fits(config, needs)
    # what is wrong with data is said before torch is imported
    try:
        source = open_source(d.source, columns=d.columns)
    except DataError as error:
        base = _begun_in(d.source, Path(folder))
        if base is None:
            raise
        remedy = f"cd {quote(str(base))} first: from there this run was begun"
        raise DataError(error.what, where=error.where, allowed=error.allowed, remedy=remedy) from None
    if d.group_pattern is not None:
        source = with_groups(source, d.group_pattern)
    if d.split_file is not None:
        split = read_split(d.split_file, source, num_unlisted=most_skipped(len(source.items), d.on_bad_image))
    else:
        split = make_split(source, val_share=d.val_share, test_share=d.test_share, seed=d.split_seed)
    from sapling.data.leaks import refuse_torn_groups  # not above: it brings scipy

    refuse_torn_groups(source, split, allow=d.allow_leaks or Path(folder, "data.json").exists())
    if dry_run:
        from sapling.workflows.plan import plan

        print_plan(plan(config, task=task, screen=screen))
        return
    if (note := _finished_before(Path(folder), len(source.items), stamp_of(config, task))) is not None:
        screen.say(note)
    if task == "train":
        from sapling.workflows.train import train as work
    else:
        from sapling.workflows.distill import distill as work
    print_result(work(config, screen=screen))


def _begun_in(source: str, folder: Path) -> Path | None:
    """Another folder than this one, from which the run in ``folder`` saw data that are still there; or None."""
    from sapling.record import read_json

    try:
        place = Path(read_json(folder / "data.json")["place"])
        base = place.parents[len(Path(source).parts) - 1]
    except (SaplingError, LookupError, TypeError):
        return None
    if Path(source).is_absolute() or base / source != place or not place.exists():
        return None
    return base if base.resolve() != Path.cwd() else None


def _finished_before(folder: Path, num_images: int, stamp: str) -> str | None:
    """Say that a run is finished and its result printed again; and when there are more or fewer images by now."""
    if not (folder / "results.json").is_file() or not (folder / "data.json").is_file():
        return None
    from sapling.record import read_json
    from sapling.run_folders import has_stamp

    if not has_stamp(folder, stamp):  # of other settings, which is refused
        return None

    card = read_json(folder / "data.json")
    before = int(card.get("num_images", 0)) + len(card.get("skipped") or ())
    if before in (0, num_images):
        return "this run is finished: its result follows. Another --output repeats it."
    return (
        f"note: the data have {num_images:,} images now and had {before:,} when this run was made: its result follows. "
        "Another --output starts a run with all of them."
    )
