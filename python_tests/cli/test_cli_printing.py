"""Text on the terminal, piece by piece, as `generate` prints it."""

import torch

from s2t_ext.cli.printer import Printer


class Event:
    """As much of a StepEvent as the printer reads."""

    def __init__(self, token, triggered=False, changed=False):
        self.tokens, self.triggered, self.changed = (
            torch.tensor([value]) for value in (token, triggered, changed)
        )


class Pieces:
    """Decodes like SentencePiece: the first word of a text has no space before it."""

    all_special_ids = (0,)

    def __init__(self, pieces):
        self.pieces = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]

    def decode(self, ids):
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace").removeprefix(" ")


def printed(tokenizer, tokens, capsys, **options) -> list[str]:
    printer, outputs = Printer(tokenizer, False), []
    for token in tokens:
        printer.step(Event(token))
        outputs.append(capsys.readouterr().out)
    printer.end()
    return [*outputs, capsys.readouterr().out]


def test_words_keep_the_space_before_them(capsys):
    tokenizer = Pieces(["<s>", " Hello", " world", "!"])
    assert printed(tokenizer, [1, 2, 3, 0, 2], capsys) == [
        "Hello", " world", "!", "", " world", "\n",
    ]  # fmt: skip


def test_a_character_is_printed_once_it_is_whole(capsys):
    euro = "€".encode()
    tokenizer = Pieces(["<s>", " a", euro[:1], euro[1:2], euro[2:]])
    assert printed(tokenizer, [1, 2, 3, 4, 1], capsys) == ["a", "", "", "€", " a", "\n"]
    assert printed(tokenizer, [1, 2], capsys) == ["a", "", "\ufffd\n"]
