"""The command `chat`: turns, switching, and a cache that is kept between turns."""

import pytest
from command_line import error_of
from models import build_model, make_selector, make_tokenizer
from typer.testing import CliRunner

from s2t_ext import S2TConfig, Teacher
from s2t_ext.cli import app
from s2t_ext.cli.conversation import Conversation, ways_to_decode
from s2t_ext.cli.printer import CHANGED

#: Of several turns; the conversation so far is the beginning of the next prompt.
TURNS = (
    "<bos>{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
ALWAYS = S2TConfig(trigger="always", k=3, warmup_steps=0)


@pytest.fixture
def model():
    model = build_model("llama")
    model.generation_config.eos_token_id = None
    return model


def conversation_with(model, **options):
    ways = ways_to_decode(ALWAYS, teacher="teacher" in options)
    if "teacher" in options:
        ways["s2t"] = S2TConfig(select="teacher", trigger="always", k=3, warmup_steps=0)
    return Conversation(
        model,
        make_tokenizer(TURNS),
        ways,
        "greedy",
        selector=make_selector(model),
        max_new_tokens=6,
        **options,
    )


def positions_seen(model):
    """The number of positions of every forward pass of the model, as they come."""
    seen = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return seen


def test_what_the_cache_holds_is_not_computed_again(model):
    conversation = conversation_with(model)
    conversation.answer("Hello")
    seen = positions_seen(model)
    conversation.answer("And you?")
    prompt = conversation.tokenizer(
        conversation.tokenizer.apply_chat_template(
            conversation.turns[:-1], tokenize=False, add_generation_prompt=True
        )
    )["input_ids"]
    assert conversation.reused >= len("u:Hello;a:")
    assert seen[0] == len(prompt) - conversation.reused < len(prompt)
    assert seen[1:] == [1] * 5


@pytest.mark.parametrize("second", ["greedy", "local", "s2t"])
@pytest.mark.parametrize("first", ["greedy", "local", "s2t"])
def test_a_kept_cache_changes_no_token(model, first, second):
    """Against the same conversation whose second turn begins with an empty cache."""
    teacher = Teacher.from_model(build_model("llama", seed=5))
    kept, fresh = (conversation_with(model, teacher=teacher) for _ in range(2))
    for conversation in (kept, fresh):
        conversation.mode = first
        conversation.answer("Hello")
    fresh._forget()
    rows = []
    for conversation in (kept, fresh):
        conversation.mode = second
        rows.append(conversation.answer("And you?").rows[0])
    assert kept.reused > 0 and fresh.reused == 0
    assert rows[0].tokens == rows[1].tokens and kept.turns == fresh.turns
    assert len(rows[0].triggered_steps) == (0 if second == "greedy" else 6)


def test_a_turn_that_is_broken_off_is_forgotten(model):
    conversation = conversation_with(model)
    conversation.answer("Hello")
    before = list(conversation.turns)

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.answer("And you?", stop)
    assert conversation.turns == before
    again = conversation.answer("And you?").rows[0].tokens
    other = conversation_with(model)
    other.answer("Hello")
    assert other.answer("And you?").rows[0].tokens == again


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("chat")
    model = build_model("llama")
    model.generation_config.eos_token_id = None
    model.save_pretrained(root / "model")
    make_tokenizer(TURNS).save_pretrained(root / "model")
    make_selector(model, decoding=ALWAYS).save_pretrained(root / "selector")
    return root


def chat(folder, lines, *more):
    command = ["chat", "--model", folder / "model", "--dtype", "float32", "--max-new-tokens", 6]
    arguments = [str(a) for a in (*command, *more)]
    result = CliRunner().invoke(app, arguments, input="".join(f"{line}\n" for line in lines))
    assert result.exit_code == 0, result.output
    return result


def test_a_conversation_from_a_pipe(folder):
    lines = ["Hello", "/why", "/greedy", "Hello", "/s2t", "/new", "Hello", "/quit", "never read"]
    result = chat(folder, lines, "--selector", folder / "selector", "--color")
    answers = result.stdout.splitlines()
    assert len(answers) == 3 and CHANGED in answers[0] and CHANGED not in answers[1]
    notes = result.stderr.splitlines()
    assert notes[0].startswith("local decoding; /greedy /local /s2t")
    assert sum(note.startswith("step ") for note in notes) == 6
    assert "/s2t needs a teacher: start with one" in notes
    assert notes[-1].startswith("greedy [6 tokens, 0 choices")


def test_what_chat_needs(folder, tmp_path):
    command = ("chat", "--model", folder / "model", "--dtype", "float32")
    assert error_of(*command, "--trigger", "always") == (
        "--selector must be given for --trigger, --threshold and --k, got none"
    )
    build_model("llama").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert error_of("chat", "--model", tmp_path, "--dtype", "float32") == (
        "chat: the model's tokenizer must have a chat template, got none"
    )
