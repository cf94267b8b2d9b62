"""Train the tiny LLaVA of the drawn world from nothing and put it into the package.

    python -m experiments.scenes_base.run --out runs/scenes_base

Stages, each resumable by running the same command again:

    1. vision     the tower: naming what stands in each cell, and CLIP's contrast with hard negatives
    2. describe   projector and language model on inventories, true descriptions and questions, tower frozen
    3. sft        projector and language model on conversations, a known share of which name absent partners
    4. measure    validation and test scores

`--install` puts the result into the package and its figures into this folder; without it the package keeps the model
that it has.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import grain
import jax
import tyro

from experiments.generated import shortened
from experiments.scenes_base.curriculum import first_conversation
from experiments.scenes_base.readme import write_readme
from experiments.scenes_base.vision import VisionSettings, VisionSource, init_vision, vision_step
from vlm_jax import __version__
from vlm_jax.checkpoints.hf_llava import save_llava
from vlm_jax.checkpoints.opening import TINY, open_model, open_role
from vlm_jax.commands import scenes as scenes_command
from vlm_jax.commands import sft as sft_command
from vlm_jax.config import CLIP_PRESETS, PRESETS
from vlm_jax.data.tokenizers import load_tokenizer
from vlm_jax.evals.scenes.scorer import evaluate
from vlm_jax.files import write_json
from vlm_jax.models.llava import init_llava
from vlm_jax.parallel.compile import jit_step, place
from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.randomness import key_for
from vlm_jax.recipes import read as read_recipe
from vlm_jax.report.tables import print_scores
from vlm_jax.runs.begin import Run
from vlm_jax.runs.log import read_metrics
from vlm_jax.runs.loop import Pace, train
from vlm_jax.scenes import tokenizer
from vlm_jax.scenes.files import read_scenes
from vlm_jax.train.optim import Optim, start

_PRESET = "scenes-tiny"
_HERE = Path(__file__).parent
_STAGES = ("vision", "describe", "sft")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        out: Folder of the run.
        seed: Of weights, data order and the world.
        scenes: Training scenes.
        vision_steps: Of 64 pictures.
        describe_epochs: Passes over inventories, true descriptions and questions.
        sft_epochs: Passes over conversations.
        install: Copy the result into the package.
    """

    out: Path = Path("runs/scenes_base")
    seed: int = 0
    scenes: int = 30000
    vision_steps: int = 2000
    describe_epochs: float = 3.0
    sft_epochs: float = 1.5
    install: bool = False


def draw_world(options: Options) -> Path:
    """The world that all stages read; true descriptions for stage 2 beside its own files."""
    world = options.out / "world"
    scenes_command.run(
        scenes_command.Options(
            out=world, train=options.scenes, preference=0, prompts=0, validation=400, test=400, seed=options.seed
        )
    )
    if not (world / "describe.json").exists():
        train = {name: here for name, here in read_scenes(world).items() if here.split == "train"}
        rows = [{"id": name, "image": name, "conversations": first_conversation(here)} for name, here in train.items()]
        write_json(world / "describe.json", rows)
    return world


def train_vision(options: Options) -> Path:
    """Stage 1; a whole checkpoint with a trained tower and an untrained language model."""
    result = options.out / "vision" / "checkpoint"
    made = {"settings": {"seed": options.seed, "steps": options.vision_steps}}
    run = Run(result, options.out / "vision" / "run.json", made)
    if run.finished():
        return result
    tokens = options.out / "tokenizer"
    tokenizer.build(tokens)
    config, mesh = CLIP_PRESETS[_PRESET], make_mesh()
    optim = Optim(2e-3, steps=options.vision_steps, warmup_steps=100, weight_decay=0.01)
    state = place(mesh, start(optim, init_vision(config, key_for(options.seed, "vision"))))
    step = jit_step(vision_step, mesh, config, VisionSettings(optim), state=state)
    source = VisionSource(load_tokenizer(tokens), options.vision_steps, seed=options.seed)
    batches = grain.MapDataset.source(source).to_iter_dataset(grain.ReadOptions(1, 4))
    pace = Pace("vision", options.vision_steps, 250, shown=("content_accuracy", "matched"))
    state = train(run, pace, mesh, state, lambda state, batch: step({}, state, batch), batches)
    llava = PRESETS[_PRESET]
    base = init_llava(llava, key_for(options.seed, "language"))
    save_llava(result, llava, base | {"vision": state.params["clip"]["vision"]}, tokens)
    return result


def train_describe(options: Options, world: Path, start_from: Path) -> Path:
    """Stage 2: looking things up, and true descriptions."""
    return _train(
        options,
        checkpoint=str(start_from),
        data=world / "describe.json",
        images=world / "images",
        out=options.out / "describe",
        epochs=options.describe_epochs,
        max_length=112,
    )


def train_sft(options: Options, world: Path, start_from: Path) -> Path:
    """Stage 3: conversations."""
    return _train(
        options,
        checkpoint=str(start_from),
        data=world / "instructions.json",
        images=world / "images",
        out=options.out / "sft",
        epochs=options.sft_epochs,
        max_length=176,
    )


def _train(options: Options, **fields: Any) -> Path:
    """Projector and language model on a file of conversations, as ``vlm-jax sft --trainable full`` does."""
    command = sft_command.Options(
        trainable="full",
        seed=options.seed,
        save_every=250,
        preset=_PRESET,
        learning_rate=1e-3,
        batch_size=64,
        # Parts that fit a core's cache: half as fast again as the whole batch.
        microbatches=8,
        **fields,
    )
    sft_command.run(command)
    return command.out / "checkpoint"


def measure(options: Options, world: Path, checkpoint: Path) -> dict:
    """Scores on both held-out splits, with what was run."""
    model = open_model(str(checkpoint), preset=_PRESET)
    lora = open_role(model, None)["lora"]
    answering = read_recipe(f"{_PRESET}/answer").options
    shape = answering["batch_size"], answering["prompt_lengths"], answering["max_new_tokens"]
    scores = {split: shortened(evaluate(model, lora, world, split, *shape)) for split in ("validation", "test")}
    return {
        "options": {**dataclasses.asdict(options), "out": str(options.out)},
        "seconds": {stage: seconds_of(options.out / stage) for stage in _STAGES},
        "megabytes": sum(file.stat().st_size for file in checkpoint.iterdir()) / 1e6,
        "scores": scores,
        "versions": {"vlm_jax": __version__, "jax": jax.__version__},
    }


def seconds_of(stage: Path) -> float:
    """From the stage's first file to its last, pauses included."""
    return round((stage / "checkpoint").stat().st_mtime - (stage / "run.json").stat().st_mtime, 1)


def install(options: Options, checkpoint: Path, results: dict) -> None:
    """Put the model into the package, and results and curves into this folder."""
    shutil.rmtree(TINY, ignore_errors=True)
    shutil.copytree(checkpoint, TINY)
    curves = {stage: read_metrics(options.out / stage / "metrics.jsonl") for stage in _STAGES}
    write_json(_HERE / "results" / "results.json", results)
    write_json(_HERE / "results" / "curves.json", curves)
    write_readme(_HERE)


def main(options: Options) -> None:
    world = draw_world(options)
    checkpoint = train_sft(options, world, train_describe(options, world, train_vision(options)))
    results = measure(options, world, checkpoint)
    write_json(options.out / "results.json", results)
    print_scores(results["scores"])
    if options.install:
        install(options, checkpoint, results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
