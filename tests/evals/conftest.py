"""What tests of benchmarks share."""

import pytest

from vlm_jax.files import write_json_lines


@pytest.fixture
def asked(monkeypatch):
    """Stands in for a checkpoint of LLaVA that says what ``asked.reply`` does; what it was asked is in
    ``asked.to_ask``, how in ``asked.options``."""

    class Asked:
        to_ask = ()
        options = None

        @staticmethod
        def reply(ask):
            return "A"

    def answer(options, target, to_ask):
        Asked.options, Asked.to_ask = options, to_ask
        write_json_lines(target, [{"question_id": ask.id, "text": Asked.reply(ask)} for ask in to_ask])

    monkeypatch.setattr("vlm_jax.commands.eval.scoring.answer", answer)
    monkeypatch.setattr("vlm_jax.commands.eval.scoring.known_suffix", lambda checkpoint, usual: usual)
    return Asked
