"""The files that people train from as lists of records; every row is checked when it is loaded.

All readers take a JSON list or JSON lines, and raise ``InputError`` naming the file and the row. ``<image>`` may stand
anywhere in a question (it is moved to the front of its turn when the conversation is rendered) and is supplied in the
first question where a row names an image but none shows it; a marker without an image, or more than one, is an error.
"""

from vlm_jax.data.sources.answered import read_answered
from vlm_jax.data.sources.captions import read_captions
from vlm_jax.data.sources.readers import read_instructions, read_preferences, read_prompts
from vlm_jax.data.sources.records import Answered, Instruction, Preference, Prompt, Record

__all__ = [
    "Answered",
    "Instruction",
    "Preference",
    "Prompt",
    "Record",
    "read_answered",
    "read_captions",
    "read_instructions",
    "read_preferences",
    "read_prompts",
]
