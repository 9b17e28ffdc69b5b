"""Decoding with a teacher: lockstep equals recomputing both models at every step, and scoring a
whole trajectory equals asking step by step.
"""

import math

import pytest
import torch
from architectures import EOS, PAD, PROMPT, VOCAB
from models import make_selector, prompts, tiny_model
from tiny_teachers import NEW_TOKENS, median_kl, run_with_teacher, teacher_model
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import s2t_ext
from s2t_ext import S2TConfig, Teacher
from s2t_ext.hf.identity import check_same_tokenizer
from s2t_ext.teachers.labels import listed_tokens


def check(student, teacher, inputs, config, selector=None):
    """Runs, compares with the reference, returns the record."""
    output = run_with_teacher(student, teacher, inputs, config, selector)
    expected = s2t_ext.reference.decode_with_teacher(
        student,
        teacher,
        inputs.ids,
        inputs.mask,
        config=config,
        selector=selector,
        max_new_tokens=NEW_TOKENS,
        eos_token_ids=(EOS,),
        pad_token_id=PAD,
    )
    assert output.sequences.tolist() == expected.tolist()
    return output.s2t


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("select", ["teacher", "takeover"])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [("llama", "qwen2"), ("qwen3", "mistral_window"), ("gpt2", "llama"), ("mamba2", "qwen2")],
)
def test_kl_trigger_equals_recomputing(student, teacher, select, padded):
    small, large, inputs = tiny_model(student), teacher_model(teacher), prompts(padded)
    threshold = median_kl(small, large, inputs)
    config = S2TConfig(k=4, trigger="kl", threshold=threshold, select=select, warmup_steps=2)
    record = check(small, large, inputs, config)
    assert 0 < record.triggers < record.steps and record.changed_tokens > 0
    # Nothing is asked in the warmup, and once a step after it.
    assert record.teacher_forward_passes == max(row.steps for row in record.rows) - 2


@pytest.mark.parametrize("student", ["llama", "mamba2"])
def test_override_margin(student):
    """The teacher's candidate is taken only where it is likelier by more than the margin (nats)."""
    small, large, inputs = tiny_model(student), teacher_model(), prompts(True)
    always = dict(select="teacher", trigger="always", k=4, warmup_steps=0)
    free = check(small, large, inputs, S2TConfig(**always))
    record = check(small, large, inputs, S2TConfig(**always, override_margin=0.3))
    assert free.refused_overrides == 0 < record.refused_overrides
    assert 0 < record.changed_tokens <= record.triggers - record.refused_overrides


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("select", ["teacher", "takeover"])
@pytest.mark.parametrize("trigger", ["entropy", "random", "always"])
def test_other_triggers_equal_recomputing(trigger, select, padded):
    """The teacher is asked only where a row is triggered: its cache catches up in one forward."""
    small, large, inputs = tiny_model("llama"), teacher_model(), prompts(padded)
    threshold = {"entropy": 2.5, "random": 0.3, "always": None}[trigger]
    config = S2TConfig(k=4, trigger=trigger, threshold=threshold, select=select)
    record = check(small, large, inputs, config)
    assert 0 < record.triggers
    steps = {step for row in record.rows for step in row.triggered_steps}
    assert record.teacher_forward_passes == len(steps)


@pytest.mark.parametrize("ratio", [0.2, 0.999])
@pytest.mark.parametrize("select", ["teacher", "takeover"])
def test_candidate_ratio(select, ratio):
    """Unlikely candidates are not among what a teacher chooses from; taking over, it may."""
    config = S2TConfig(trigger="always", select=select, warmup_steps=0, candidate_ratio=ratio)
    record = check(tiny_model("llama"), teacher_model(), prompts(True), config)
    assert (record.changed_tokens == 0) == (select == "teacher" and ratio == 0.999)


def padded_student(rows: int):
    """A student whose rows beyond VOCAB are padding: in its support, but never its choice."""
    student = teacher_model("llama", rows, seed=0)
    with torch.no_grad():
        student.get_output_embeddings().weight[VOCAB:] = 0.0
    return student


@pytest.mark.parametrize(("ours", "theirs"), [(VOCAB, VOCAB + 13), (VOCAB + 13, VOCAB)])
@pytest.mark.parametrize("select", ["teacher", "takeover"])
def test_vocabularies_padded_differently(ours, theirs, select):
    small, large, inputs = padded_student(ours), teacher_model(vocabulary=theirs), prompts(True)
    threshold = median_kl(small, large, inputs)
    config = S2TConfig(k=4, trigger="kl", threshold=threshold, select=select, warmup_steps=0)
    record = check(small, large, inputs, config)
    assert record.triggers > 0
    assert max(t for row in record.rows for t in row.tokens) < VOCAB


@pytest.mark.parametrize(
    ("trigger", "threshold"), [("random", 0.0), ("entropy", math.inf), ("margin", -math.inf)]
)
@pytest.mark.parametrize("select", ["teacher", "takeover"])
def test_a_threshold_that_nothing_reaches_asks_no_teacher(select, trigger, threshold):
    """The end of a sweep over thresholds: plain decoding, not an error."""
    model, inputs = tiny_model("llama"), prompts(True)
    config = S2TConfig(trigger=trigger, threshold=threshold, select=select, warmup_steps=0)
    output = run_with_teacher(model, teacher_model(), inputs, config)
    expected = model.generate(
        inputs.ids, attention_mask=inputs.mask, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    assert torch.equal(output.sequences, expected)
    assert output.s2t.teacher_forward_passes == 0


def test_a_token_the_teacher_has_no_row_for_is_refused():
    inputs = prompts(False)
    highest = int(inputs.ids.max())
    config = S2TConfig(trigger="always", select="teacher", warmup_steps=0)
    with pytest.raises(ValueError, match=f"teacher must have a row for every .* got {highest}"):
        run_with_teacher(tiny_model("llama"), teacher_model(vocabulary=highest), inputs, config)


def test_kl_trigger_with_a_selector_equals_recomputing():
    """The teacher says when, the selector what."""
    small, large, inputs = tiny_model("llama"), teacher_model(), prompts(True)
    config = S2TConfig(k=4, trigger="kl", threshold=median_kl(small, large, inputs), select="local")
    assert check(small, large, inputs, config, make_selector(small)).changed_tokens > 0


def test_a_teacher_that_is_the_student_changes_nothing():
    small, inputs = tiny_model("llama"), prompts(True)
    expected = small.generate(
        inputs.ids, attention_mask=inputs.mask, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    for select in ("teacher", "takeover"):
        config = S2TConfig(trigger="always", select=select, warmup_steps=0)
        output = run_with_teacher(small, small, inputs, config)
        assert torch.equal(output.sequences, expected)
        assert output.s2t.triggers == output.s2t.steps and output.s2t.changed_tokens == 0
    config = S2TConfig(trigger="kl", threshold=1e-4, select="teacher", warmup_steps=0)
    assert run_with_teacher(small, small, inputs, config).s2t.triggers == 0


def step_by_step(student, teacher, ids, first):
    """Labels of a trajectory, each step from its own forward of its own prefix."""
    rows = []
    for position in range(first, len(ids)):
        prefix = ids[None, :position]
        with torch.no_grad():
            ours, theirs = student(prefix).logits[:, -1], teacher(prefix).logits[:, -1]
        proposal = s2t_ext.reference.propose_candidates(ours, 16, 16)
        size = min(ours.shape[1], theirs.shape[1])
        known = proposal.ids.where(proposal.ids < size, -1)
        answer = s2t_ext.reference.support_kl(known, proposal.logits, theirs[:, :size], known)
        rows.append((proposal, answer))
    stacked = [torch.cat(column) for column in zip(*(r[0] for r in rows), strict=True)]
    answers = [torch.cat(column) for column in zip(*(r[1] for r in rows), strict=True)]
    return type(rows[0][0])(*stacked), type(rows[0][1])(*answers)


@pytest.mark.parametrize("chunk", [3, 128])
@pytest.mark.parametrize("name", ["qwen2", "gemma2", "granite", "mamba2", "mistral_window"])
def test_a_whole_trajectory_equals_step_by_step(name, chunk):
    """One prefill, its vocabulary-wide part in pieces, against one forward per prefix."""
    student, large = tiny_model("llama"), teacher_model(name, VOCAB + 13)
    ids = torch.randint(3, VOCAB, (20,), generator=torch.Generator().manual_seed(4))
    proposal, expected = step_by_step(student, large, ids, 5)
    teacher = Teacher.from_model(large)
    logits = teacher.score_trajectory(ids, 5)
    assert logits.shape == (15, VOCAB + 13)
    with torch.no_grad():
        last = large(ids[None, :-1]).logits[0, -1]
    torch.testing.assert_close(logits[-1], last, atol=1e-4, rtol=1e-4)
    actual = teacher.label_trajectory(
        ids, 5, proposal.ids, proposal.logits, vocabulary=VOCAB, chunk=chunk
    )
    torch.testing.assert_close(actual.kl, expected.kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        actual.candidate_logprobs, expected.candidate_logprobs, atol=1e-4, rtol=1e-4
    )
    assert torch.equal(actual.teacher_argmax, expected.teacher_argmax)


@pytest.mark.parametrize("chunk", [3, 128])
def test_its_likeliest_tokens_are_those_of_its_distribution(chunk):
    """Of the ids both models have; the rest of the mass is one number, by the definition in
    fp64."""
    student, large = tiny_model("llama"), teacher_model("qwen2", VOCAB + 13)
    ids = torch.randint(3, VOCAB, (20,), generator=torch.Generator().manual_seed(4))
    proposal, _ = step_by_step(student, large, ids, 5)
    teacher = Teacher.from_model(large)
    questions = (ids, 5, proposal.ids, proposal.logits)
    assert teacher.label_trajectory(*questions, vocabulary=VOCAB).top is None
    top = teacher.label_trajectory(*questions, vocabulary=VOCAB, chunk=chunk, top=4).top
    p = teacher.score_trajectory(ids, 5)[:, :VOCAB].double().softmax(dim=1)
    assert torch.equal(top.ids, p.topk(4, dim=1).indices)
    close = dict(atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        top.logprobs[:, :-1].double().exp(), p.topk(4, dim=1).values, **close
    )
    rest = 1 - p.topk(4, dim=1).values.sum(dim=1)
    torch.testing.assert_close(top.logprobs[:, -1].double().exp(), rest, **close)
    every = teacher.label_trajectory(*questions, vocabulary=VOCAB, top=VOCAB + 5).top
    assert every.ids.shape == (15, VOCAB) and every.logprobs[:, -1].eq(float("-inf")).all()


def test_listed_tokens_leave_the_rest_of_the_mass_to_the_others():
    found = listed_tokens([{7: math.log(0.5), 3: math.log(0.25)}, {5: 0.0}], 2)
    assert found.ids.tolist() == [[7, 3], [5, 5]]
    expected = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
    torch.testing.assert_close(found.logprobs.exp(), torch.tensor(expected))


@pytest.mark.parametrize("first", [0, 20])
def test_a_trajectory_without_a_first_token_is_refused(first):
    ids = torch.arange(3, 23)
    with pytest.raises(ValueError, match=r"score_trajectory: first must be in \[1, 19\]"):
        Teacher.from_model(teacher_model()).score_trajectory(ids, first)


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    vocabulary = {word: index for index, word in enumerate(words)}
    model = WordLevel(vocabulary, unk_token=words[0])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token=words[0])


def test_tokenizers_that_differ_are_refused():
    words = [f"w{i}" for i in range(200)]
    ours = tokenizer(words)
    check_same_tokenizer(ours, tokenizer(words))
    check_same_tokenizer(ours, tokenizer([*words, "pad1", "pad2"]))  # padding is no difference
    check_same_tokenizer(tokenizer([*words, "pad1"]), ours)
    swapped = [words[0], words[2], words[1], *words[3:]]
    with pytest.raises(ValueError, match="teacher must have the student's tokenizer, got"):
        check_same_tokenizer(ours, tokenizer(swapped))


def test_vocabularies_that_differ_are_refused():
    large = teacher_model(vocabulary=VOCAB + 1025)
    config = S2TConfig(trigger="always", select="teacher")
    with pytest.raises(ValueError, match="teacher must have the student's vocabulary"):
        run_with_teacher(tiny_model("llama"), large, prompts(False), config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (S2TConfig(trigger="always", select="teacher"), "teacher must be given"),
        (S2TConfig(trigger="always", select="takeover"), "teacher must be given"),
        (S2TConfig(trigger="kl", threshold=1.0, select="teacher"), "teacher must be given"),
    ],
)
def test_a_missing_teacher_is_refused(config, message):
    inputs = prompts(False)
    with pytest.raises(ValueError, match=message):
        s2t_ext.generate(tiny_model("llama"), inputs.ids, s2t=config, max_new_tokens=2)


def test_a_teacher_without_a_valid_logit_leaves_the_student_alone():
    """A teacher that answers NaN never fires, and a takeover by it emits the student's token."""
    small, inputs = tiny_model("llama"), prompts(False)
    broken = teacher_model()
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(math.nan)
    expected = small.generate(
        inputs.ids, attention_mask=inputs.mask, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    for select in ("teacher", "takeover"):
        config = S2TConfig(trigger="always", select=select, warmup_steps=0)
        output = run_with_teacher(small, broken, inputs, config)
        assert torch.equal(output.sequences, expected)
    assert PROMPT + NEW_TOKENS == expected.shape[1]


def test_what_is_no_teacher_is_refused():
    seq2seq = T5ForConditionalGeneration(
        T5Config(vocab_size=97, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    )
    body = tiny_model("llama").model
    for model, got in (
        (seq2seq, "decoder-only, got T5ForConditionalGeneration"),
        (body, "a causal language model of transformers, got LlamaModel"),
    ):
        model.train()
        with pytest.raises(ValueError) as error:
            Teacher.from_model(model)
        assert str(error.value) == f"Teacher.from_model: model must be {got}"
        assert model.training  # what is refused is left as it was
        model.eval()
