"""How many rows the token tables have in which layout."""

from vlm_jax.config import LlavaConfig


def padded_rows(config: LlavaConfig) -> int:
    """Rows that transformers needs: it looks the image id up before it replaces the result."""
    if config.image_token_id < config.language.vocab_size:
        return config.language.vocab_size
    return _up_to_64(config.image_token_id + 1)


def text_rows(config: LlavaConfig) -> int:
    """Rows without those that transformers' padding added: where they end as it ends them, the image id begins them.

    The tokens around an image are text wherever they stand.
    """
    rows = config.language.vocab_size
    if rows != _up_to_64(config.image_token_id + 1):
        return rows
    return max(min(config.image_token_id, rows), *(1 + end for end in config.image_ends or ()), 0)


def _up_to_64(rows: int) -> int:
    return -(-rows // 64) * 64
