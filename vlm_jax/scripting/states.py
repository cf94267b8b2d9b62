"""Hidden states as a script gets them: one conversation each, with what every position is."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32

from vlm_jax.arrays import Batch
from vlm_jax.data.conversation import IMAGE, Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class States:
    """States of one conversation, without padding: t positions, among them the image's patches, row by row.

    Attributes:
        values: Site -> float32 states of the layers asked for, in their order.
        layers: Those layers; 0 is the input of the first block.
        tokens: How each position is spelled; an image's are all ``<image>``.
        image: True on the positions of the image.
        answer: True on the answer's tokens and its end token; all False where no answer was given.
    """

    values: dict[str, Float32[np.ndarray, "c t d"]]
    layers: tuple[int, ...]
    tokens: list[str]
    image: Bool[np.ndarray, " t"]
    answer: Bool[np.ndarray, " t"]


def unpadded(
    tokenizer: Tokenizer, layers: tuple[int, ...], row: Batch, values: dict[str, Float32[np.ndarray, "c t d"]]
) -> States:
    """States of one row of a batch (NumPy arrays without the row axis), padding left out."""
    real = row.attention_mask
    image = row.image_mask[real]
    # The placeholder's id may lie outside the vocabulary.
    spelled = tokenizer.convert_ids_to_tokens(np.where(image, 0, row.tokens[real]).tolist())
    return States(
        values={site: states[:, real] for site, states in values.items()},
        layers=layers,
        tokens=[IMAGE if here else token for here, token in zip(image, spelled, strict=True)],
        image=image,
        answer=row.loss_mask[real],
    )
