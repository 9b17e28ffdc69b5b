"""A tokenizer whose words are its ids, for tests that go from text to text."""

from architectures import VOCAB
from models import build_model
from transformers import PreTrainedTokenizerFast


def word_tokenizer(words=None) -> PreTrainedTokenizerFast:
    """One entry per word, in order; by default pad, eos, bos and w3, w4, ... of the tiny models."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = words or ["<pad>", "<eos>", "<bos>", *(f"w{i}" for i in range(3, VOCAB))]
    model = WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[-1])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=words[-1], pad_token=words[0], eos_token=words[1]
    )


def save_pair(folder, student="llama", teacher="qwen2"):
    """Folders of a student and a teacher, with their tokenizer."""
    for name, architecture, seed in (("student", student, 0), ("teacher", teacher, 7)):
        build_model(architecture, seed).save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)
    return folder / "student", folder / "teacher"
