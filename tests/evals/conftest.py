"""What tests of benchmarks share."""

import pytest

from vlm_jax.files import write_json_lines


@pytest.fixture
def asked(monkeypatch):
    """Stands in for a checkpoint that says what ``asked.reply`` does; what it was asked is in ``asked.asks``, how in
    ``asked.options``."""

    class Asked:
        asks = ()
        options = None

        @staticmethod
        def reply(ask):
            return "A"

    def answer(options, target, asks):
        Asked.options, Asked.asks = options, asks
        write_json_lines(target, [{"question_id": ask.id, "text": Asked.reply(ask)} for ask in asks])

    monkeypatch.setattr("vlm_jax.commands.eval.scoring.answer", answer)
    return Asked
