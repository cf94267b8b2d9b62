"""The first ten steps of every kind of training on the tiny model, through the pipelines and steps that the verbs use.
Written to golden_losses.json by

    python tests/contracts/golden_losses.py
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.opening import Model, open_model
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.data.pipelines import instruction_batches, preference_batches, prompt_batches
from vlm_jax.data.sources import read_captions, read_instructions, read_preferences, read_prompts
from vlm_jax.files import write_json
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.adapters import init_lora, verdict_head
from vlm_jax.parallel.compile import jit_step, place, place_batch
from vlm_jax.randomness import key_for
from vlm_jax.runs.rollouts import rollout_and_update
from vlm_jax.scenes.files import preference_row, write_world
from vlm_jax.scenes.preferences import annotate
from vlm_jax.scenes.questions import Question, questions
from vlm_jax.scenes.world import Scene, generator_for
from vlm_jax.train.optim import Optim, TrainState, start
from vlm_jax.train.ppo import PpoSettings, first_params
from vlm_jax.train.reward import RewardSettings, reward_step
from vlm_jax.train.reward_terms import RewardTerms
from vlm_jax.train.sft import SftSettings, sft_step

FILE = Path(__file__).parent / "golden_losses.json"
STEPS, ROWS = 10, 4
SEED = 0

Curves = dict[str, list[float]]


def write_golden_world(folder: Path) -> None:
    """A few scenes of each split that is trained on, and pairs without a model: a scene's own description against
    its neighbour's."""
    scenes = write_world(folder, {"train": 24, "preference": 16, "prompts": 16}, seed=SEED)
    here = {name: scene for name, scene in scenes.items() if scene.split == "preference"}
    rng, names = np.random.default_rng(SEED), list(here)
    rows = []
    for row, name in enumerate(names):
        own, other = (_description(here[one]) for one in (name, names[row - 1]))
        # The own description stands first in every second row.
        first, second = (own.answer, other.answer) if row % 2 else (other.answer, own.answer)
        rows.append(preference_row(name, own, first, second, *annotate(own, first, second, here[name], rng)))
    write_json(folder / "preferences.json", rows)


def _description(scene: Scene) -> Question:
    return next(one for one in questions(scene, generator_for(scene, "golden")) if one.type == "holistic")


def _curves(
    step: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, jax.Array]]],
    state: TrainState,
    mesh: Mesh,
    batches: Iterable[Any],
    names: Sequence[str],
) -> Curves:
    """Metrics of these names at each of the first steps."""
    found = {name: [] for name in names}
    iterator = iter(batches)
    with jax.set_mesh(mesh):
        for _ in range(STEPS):
            state, metrics = step(state, place_batch(mesh, next(iterator)))
            for name, values in found.items():
                values.append(float(metrics[name]))
    return found


def sft_curves(model: Model, world: Path) -> Curves:
    records = read_instructions(world / "instructions.json", world / "images")
    batches = instruction_batches(records, model.tokenizer, model.config, model.template, ROWS, 160, SEED)
    optim = Optim(1e-3, steps=100, warmup_steps=3)
    state = place(model.mesh, start(optim, {"lora": init_lora(model.config, key_for(SEED, "lora"))}))
    step = jit_step(sft_step, model.mesh, model.config, SftSettings(optim, microbatches=2), state=state)
    return _curves(lambda state, batch: step(model.base, state, batch), state, model.mesh, batches, ("loss",))


def _reward_role(model: Model) -> Params:
    good, bad = (model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    return {"lora": init_lora(model.config, key_for(SEED, "lora")), "head": verdict_head(model.base, good, bad)}


def reward_curves(model: Model, world: Path) -> Curves:
    facts = read_captions(world / "image_to_caption.json")
    records = read_preferences(world / "preferences.json", world / "images", facts)
    words = (model.tokenizer, model.config, model.template)
    batches = preference_batches(records, *words, ROWS, 192, SHORT, SEED)
    optim = Optim(1e-3, steps=100, warmup_steps=3)
    state = place(model.mesh, start(optim, _reward_role(model)))
    step = jit_step(reward_step, model.mesh, model.config, RewardSettings(optim), state=state)
    names = ("loss", "margin", "mean_score")
    return _curves(lambda state, batch: step(model.base, state, batch), state, model.mesh, batches, names)


def ppo_curves(model: Model, world: Path) -> Curves:
    facts = read_captions(world / "image_to_caption.json")
    records = read_prompts(world / "prompts.json", world / "images", facts)
    words = (model.tokenizer, model.config, model.template)
    batches = prompt_batches(records, *words, ROWS, 40, 152, SHORT, SEED)
    settings = PpoSettings(
        Optim(1e-3, steps=100, warmup_steps=4),
        sampling=Sampling(max_new_tokens=24),
        terms=RewardTerms(stop_penalty=1.0, length_coefficient=0.5, correct_bonus=0.0),
        reward_scale=1.0,
    )
    reward = place(model.mesh, _reward_role(model))
    reference = place(model.mesh, {"lora": init_lora(model.config, key_for(SEED, "policy"))})
    frozen = {"reference": reference, "reward": reward}
    state = place(model.mesh, start(settings.optim, first_params(model.config, frozen)))
    step = rollout_and_update(model, settings, frozen, state, records, world / "answers", SEED)
    names = ("policy_loss", "value_loss", "reward", "kl", "length")
    return _curves(step, state, model.mesh, batches, names)


CURVES = {"sft": sft_curves, "reward": reward_curves, "ppo": ppo_curves}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_golden_world(Path(folder))
        model = open_model("tiny")
        found = {kind: curves(model, Path(folder)) for kind, curves in CURVES.items()}
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
