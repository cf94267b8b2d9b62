"""CHAIR: how many of the objects that captions name are not in the image?

  vlm-jax eval chair --objects objects.json --answers captions.jsonl --synonyms synonyms.txt --output chair.json
  vlm-jax eval chair --objects objects.json --checkpoint DIR --images val2014 --output chair.json

A checkpoint is asked to describe every image among the objects. Published figures were counted with CHAIR's own
synonyms.txt; without it a table of our own names the objects, and figures differ a little.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.scoring import Scoring, check_spoken, conclude, image_file, picture

if TYPE_CHECKING:
    from vlm_jax.data.rows import Row
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.statistics.tally import Scored

PROMPT = "Please describe this image in detail."
_IDS = ("image_id", "question_id", "id", "index", "image")
_OWN_NAMES = "objects named by a table of ours, not by CHAIR's synonyms.txt: near to published figures, not equal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        objects: JSON of image id -> objects in it, as `vlm-jax eval chair-objects` writes it.
        synonyms: What the objects are called: CHAIR's `synonyms.txt`, or JSON of object -> other names.
        mode: `official` CHAIR's own script, `corrected` without its slips, `unique` each object once a caption.
        prompt: What a checkpoint is asked.
        image_name: An image's file by its id.
    """

    ASKING = ("prompt",)

    objects: Path
    synonyms: Path | None = None
    mode: Literal["official", "corrected", "unique"] = "official"
    prompt: str = PROMPT
    image_name: str = "COCO_val2014_{:012d}.jpg"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=512)


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.evals.answering.answer_files import Pairing, collect_answers, iter_answer_rows
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.chair import scorer as chair
    from vlm_jax.evals.chair.coco_objects import NAMES_FILE, check_objects, read_names, read_objects

    objects = read_objects(options.objects)
    names = read_names(options.synonyms or NAMES_FILE)
    check_objects(objects, names, options.objects)

    def score(path: Path) -> "Scored":
        pairing = Pairing(_IDS, objects, options.id_key)
        identify = functools.partial(image_of, pattern=options.image_name, images=objects)
        answers = collect_answers(iter_answer_rows(path, pairing), pairing, identify)
        captions = {image: answer.text for image, answer in answers.items()}
        check_spoken(captions.values(), path, options)
        try:
            scored = chair.score(captions, objects, names, options.mode)
        except InputError as error:
            raise error.at(str(path)) from None
        own = (_OWN_NAMES,) if options.synonyms is None else ()
        return dataclasses.replace(scored, remarks=(*own, *scored.remarks))

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        files = {image: image_file(options.image_name, image) for image in objects}
        return [ImageQuestion(image, options.prompt, picture(images, files[image], options)) for image in objects]

    conclude("CHAIR", options.mode, options, score, to_ask)


def image_of(row: "Row", key: str, pattern: str, images: Collection[str]) -> str:
    """The image of an answer: its id under a key, or that of the file which stands there.

    Args:
        row: Of the file of answers.
        key: Of its id.
        pattern: A file's name by its id.
        images: Ids of all images.

    Raises:
        InputError: There is neither text nor a number.
    """
    from vlm_jax.evals.answering.answer_files import row_id

    said = row_id(row, key)
    number = re.search(r"(\d{1,18})\.\w+$", said)
    image = str(int(number[1])) if number else said
    return image if said not in images and number and image_file(pattern, image) == Path(said).name else said
