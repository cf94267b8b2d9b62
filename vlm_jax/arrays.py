"""Array types and the structs that travel between the rooms of the package.

Axis letters, used in every annotation:

    b  batch rows              t  text positions (image span included)    p  image patches
    d  model width             v  vocabulary                              l  layers
    h w  image height, width   q  prompt positions                        r  response positions
"""

import flax.struct
from jaxtyping import Array, Bool, Float, Int32, UInt8

Params = dict  # A nested dict of arrays: weights, adapters, optimizer targets.


@flax.struct.dataclass
class Batch:
    """What a model reads. Every shape is static; every mask is explicit, none is derived from token ids.

    Attributes:
        tokens: Token ids; each image is already expanded to one placeholder id per patch.
        attention_mask: True on real positions, False on padding (left or right).
        image_mask: True on the positions that image features fill; all False in a row without an image.
        loss_mask: True on the tokens that a loss predicts (position i is predicted from i - 1).
        images: 8-bit RGB, already padded and resized to the tower's size; zeros in a row without an image. None in
            a decoding step, where every image is in the cache already. Of packed rows the n places of each, filled from
            the first in the order of their spans.
        segments: Where several texts are packed into a row: the number of each position's text, in their order from
            1, and 0 on padding, which stands behind them. None where every row holds one text.
    """

    tokens: Int32[Array, "b t"]
    attention_mask: Bool[Array, "b t"]
    image_mask: Bool[Array, "b t"]
    loss_mask: Bool[Array, "b t"]
    images: UInt8[Array, "b h w 3"] | UInt8[Array, "b n h w 3"] | None
    segments: Int32[Array, "b t"] | None = None


@flax.struct.dataclass
class Generation:
    """Sampled answers, right-padded after the end token.

    Attributes:
        tokens: Sampled ids; pad after the end token.
        log_probs: Log-probability of each id under the distribution it was drawn from; 0 on padding.
        mask: True on sampled ids, the end token included.
        lengths: Number of True in ``mask``.
        ended: True where the end token was drawn before the limit.
        finite: False where a token came from what is no distribution: logits with NaN or infinity among them. What
            such a row says means nothing.
    """

    tokens: Int32[Array, "b r"]
    log_probs: Float[Array, "b r"]
    mask: Bool[Array, "b r"]
    lengths: Int32[Array, " b"]
    ended: Bool[Array, " b"]
    finite: Bool[Array, " b"]


@flax.struct.dataclass
class PreferenceBatch:
    """Pairs for a reward model.

    Attributes:
        batch: 2b rows; rows 0 to b - 1 hold the first answers, rows b to 2b - 1 the second ones.
        choice: 1 where the second answer is the better one, else 0.
    """

    batch: Batch
    choice: Int32[Array, " b"]


@flax.struct.dataclass
class PromptBatch:
    """Prompts for PPO, and what the reward model needs beside the answers.

    The reward model reads the prompt (with its own view of the image), the answer, then the suffix.

    Attributes:
        prompt: Left-padded, ends where the answer begins.
        reward_images: The images as the reward model sees them; None where it sees them as the policy does.
        suffix_tokens: The evaluation turn, facts included.
        suffix_mask: True on its real positions.
        length_bonus: Factor of the length term of the reward.
        caption_type: Kind of known answer, see ``train.reward_terms``.
        index: Place of the record in the list that the batches were made from.
    """

    prompt: Batch
    reward_images: UInt8[Array, "b h w 3"] | None
    suffix_tokens: Int32[Array, "b s"]
    suffix_mask: Bool[Array, "b s"]
    length_bonus: Float[Array, " b"]
    caption_type: Int32[Array, " b"]
    index: Int32[Array, " b"]


@flax.struct.dataclass
class EvalBatch:
    """Prompts for evaluation.

    Attributes:
        batch: Left-padded to one of a few lengths.
        row_mask: False on rows that only fill up the last batch of a length (copies of its last prompt).
        index: Place of the record in the list that the batches were made from.
    """

    batch: Batch
    row_mask: Bool[Array, " b"]
    index: Int32[Array, " b"]
