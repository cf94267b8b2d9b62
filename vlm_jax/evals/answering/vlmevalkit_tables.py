"""VLMEvalKit's predictions: a table (.xlsx, .tsv, .csv, or the same rows as JSON) with the columns of its benchmark's
table except the image, and ``prediction``. What its judges make of them is the same table with ``score`` (and
``extracted`` or ``gpt4_score``) beside it.

``index`` numbers the rows of VLMEvalKit's own table, which for POPE and HallusionBench is not the benchmark's id.
"""

from vlm_jax.data.rows import Row

INDEX, PREDICTION = "index", "prediction"
# Columns of the benchmarks that hold no answer of the model's: the right one, people's captions.
_NOT_THE_MODELS = ("text", "caption", "response", "model_answer", "model_prediction", "answer")


def is_prediction(row: Row) -> bool:
    """Whether a row is one of VLMEvalKit's."""
    return INDEX in row.values and PREDICTION in row.values


def plain_prediction(row: Row) -> Row:
    """A row with the prediction as the only answer in it."""
    values = {key: value for key, value in row.values.items() if key not in _NOT_THE_MODELS}
    return Row(row.origin, values)
