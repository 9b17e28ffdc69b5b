"""A teacher behind a completions server: equal to the same model in this process, and nothing is
lost when the server misbehaves.
"""

import math

import pytest
import torch
from architectures import PROMPT, VOCAB
from completions_server import CompletionsServer
from models import prompts, tiny_model
from server_teacher import decode, teacher_at
from tiny_teachers import median_kl, teacher_model

import s2t_ext
from s2t_ext import S2TConfig, Teacher
from s2t_ext.teachers.server_answers import Position, TokenNames, parse_echo, parse_next


@pytest.mark.parametrize("style", ["lists", "content"])
@pytest.mark.parametrize("select", ["teacher", "takeover"])
def test_the_whole_list_equals_a_local_teacher(large, select, style):
    """A server that lists every token says what the model says, divergence included."""
    threshold = median_kl(tiny_model("llama"), large, prompts(True))
    config = S2TConfig(k=4, trigger="kl", threshold=threshold, select=select, warmup_steps=1)
    expected, local = decode(Teacher.from_model(large), config)
    with CompletionsServer(large, style=style).running() as url:
        actual, record = decode(teacher_at(url, top_logprobs=VOCAB, mode="top"), config)
    assert actual == expected and record.changed_tokens > 0
    for ours, theirs in zip(record.rows, local.rows, strict=True):
        assert ours.statistics == pytest.approx(theirs.statistics, abs=1e-4)
    # A request per unfinished row and step after the warmup.
    assert record.teacher_forward_passes == record.steps - len(record.rows)


@pytest.mark.parametrize("select", ["teacher", "takeover"])
def test_exact_candidates_equal_a_local_teacher(large, select):
    """With a list of 2, the candidates it lacks are asked for by echo."""
    config = S2TConfig(k=8, trigger="random", threshold=0.5, select=select, warmup_steps=0)
    expected, _ = decode(Teacher.from_model(large), config)
    server = CompletionsServer(large, most=2)
    with server.running() as url:
        teacher = teacher_at(url)
        actual, record = decode(teacher, config)
    assert actual == expected and record.changed_tokens > 0
    assert teacher.mode == "exact"
    # Rows that were not triggered cost nothing (two requests are the test of what it can).
    asked = [body for body in server.bodies if not body.get("echo")]
    assert len(asked) == record.triggers + 2
    assert record.teacher_forward_passes == len(server.bodies)


@pytest.mark.parametrize("echo", ["missing", "refused", "broken", "shifted"])
def test_without_a_right_echo_only_the_list_counts(large, echo):
    """Candidates the list lacks get the floor: a listed one beats them, else the favourite wins."""
    config = S2TConfig(k=8, trigger="always", select="teacher", warmup_steps=0)
    server = CompletionsServer(large, echo=echo, most=3)
    inputs = prompts(False)
    with server.running() as url:
        teacher = teacher_at(url)
        sequences, record = decode(teacher, config, inputs)
    assert teacher.mode == "top"
    for row, sequence in zip(record.rows, sequences, strict=True):
        for step, rank in enumerate(row.chosen_ranks):
            prefix = torch.tensor([sequence[: PROMPT + step]])
            with torch.no_grad():
                ours = tiny_model("llama")(prefix).logits[0, -1].topk(8).indices.tolist()
                theirs = large(prefix).logits[0, -1].topk(3).indices.tolist()
            ranks = [theirs.index(c) if c in theirs else 3 for c in ours]
            assert rank == ranks.index(min(ranks))


def test_the_floor_is_the_largest_value_an_unlisted_token_can_have():
    names = TokenNames()
    top = [["token_id:5", math.log(0.5)], [7, math.log(0.3)]]
    position = Position({"chosen": ["token_id:5", math.log(0.5)], "top": top}, names)
    assert position.argmax == 5 and position[7] == math.log(0.3) and position[-1] == -math.inf
    assert position.floor == pytest.approx(math.log(0.2))  # the mass that is left
    assert position[11] == position.floor and 11 not in position
    narrow = Position({"chosen": [5, math.log(0.4)], "top": [[5, math.log(0.4)]]}, names)
    assert narrow.floor == math.log(0.4)  # no more than the last one listed
    assert Position({"chosen": [5, -1.0], "top": top}, names, floor=-20.0)[11] == -20.0


def test_tokens_named_by_text():
    class Words:
        def get_vocab(self):
            return {"a": 0, "b": 1, "c": 2, "d": 3}

        def batch_decode(self, ids):
            return [["x", " y", "?", "?"][i] for (i,) in ids]

    names = TokenNames(Words())
    assert [names.id_of(n) for n in ("x", " y", "?", "z", "token_id:3", 9)] == [0, 1, -1, -1, 3, 9]
    assert TokenNames().id_of("x") == -1


def trajectory_labels(teacher, length=24, first=9, **options):
    ids = torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        logits = tiny_model("llama")(ids[None]).logits[0, first - 1 : -1]
    support = s2t_ext.ops.propose_candidates(logits.contiguous(), 16, 16)
    return teacher.label_trajectory(ids, first, support.ids, support.logits, **options)


@pytest.mark.parametrize("echo", ["right", "missing"])
def test_labels_of_a_trajectory(large, echo):
    """One echo, or a request a step, equals a local teacher's prefill."""
    expected = trajectory_labels(Teacher.from_model(large), top=5)
    server = CompletionsServer(large, echo=echo)
    with server.running() as url:
        actual = trajectory_labels(teacher_at(url, top_logprobs=VOCAB), top=5)
    torch.testing.assert_close(actual.kl, expected.kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        actual.candidate_logprobs, expected.candidate_logprobs, atol=1e-4, rtol=1e-4
    )
    assert torch.equal(actual.teacher_argmax, expected.teacher_argmax)
    assert torch.equal(actual.top.ids, expected.top.ids)
    torch.testing.assert_close(actual.top.logprobs, expected.top.logprobs, atol=1e-4, rtol=1e-4)
    assert len(server.bodies) == (4 if echo == "right" else 2 + 5 + 15)


@pytest.mark.parametrize("style", ["lists", "content"])
@pytest.mark.parametrize("select", ["teacher", "takeover"])
def test_named_ids_equal_a_local_teacher(large, select, style):
    """One request per triggered row gives all that is needed, divergence included."""
    threshold = median_kl(tiny_model("llama"), large, prompts(True))
    config = S2TConfig(k=4, trigger="kl", threshold=threshold, select=select, warmup_steps=1)
    expected, local = decode(Teacher.from_model(large), config)
    server = CompletionsServer(large, style=style, most=2, names_ids=True)
    with server.running() as url:
        teacher = teacher_at(url)
        actual, record = decode(teacher, config)
    assert teacher.mode == "ids"
    assert actual == expected and record.changed_tokens > 0
    for ours, theirs in zip(record.rows, local.rows, strict=True):
        assert ours.statistics == pytest.approx(theirs.statistics, abs=1e-4)
    assert not any(body.get("echo") for body in server.bodies)
    assert len(server.bodies) == 2 + record.steps - len(record.rows)


def test_named_ids_label_a_trajectory_without_a_floor(large):
    expected = trajectory_labels(Teacher.from_model(large), top=2)
    server = CompletionsServer(large, most=2, names_ids=True)
    with server.running() as url:
        teacher = teacher_at(url)
        without_lists = trajectory_labels(teacher)
        assert len(server.bodies) == 2 + 15
        actual = trajectory_labels(teacher, top=2)
    for labels in (actual, without_lists):
        for name in ("kl", "candidate_logprobs"):
            ours, theirs = getattr(labels, name), getattr(expected, name)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert torch.equal(labels.teacher_argmax, expected.teacher_argmax)
    assert torch.equal(actual.top.ids, expected.top.ids)


def test_ids_the_teacher_lacks_get_the_floor(large):
    """A student with more rows than the teacher: the list is asked for instead."""
    server = CompletionsServer(large, most=3, names_ids=True)
    ids, first = list(range(5, 12)), 4
    student_ids = torch.tensor([[5, VOCAB + 7], [6, 7], [8, -1]])
    logits = torch.zeros(3, 2)
    with server.running() as url:
        teacher = teacher_at(url, mode="ids", floor=-9.0)
        labels = teacher.label_trajectory(torch.tensor(ids), first, student_ids, logits)
    assert float(labels.candidate_logprobs[0, 1]) == -9.0
    assert labels.candidate_logprobs[2].tolist()[1] == -math.inf


@pytest.mark.parametrize("mode", ["ids", "exact", "top"])
def test_ids_the_student_lacks_are_not_taken_over(mode):
    """A teacher with more rows than the student, whose own favourite is often one of those."""
    large = teacher_model(vocabulary=VOCAB + 60)
    config = S2TConfig(k=4, trigger="always", select="takeover", warmup_steps=0)
    expected, _ = decode(Teacher.from_model(large), config)
    ids, first = torch.arange(5, 30), 4
    student = torch.zeros(len(ids) - first, 1, dtype=torch.int64), torch.zeros(len(ids) - first, 1)
    labels = Teacher.from_model(large).label_trajectory(ids, first, *student, vocabulary=VOCAB)
    free = Teacher.from_model(large).label_trajectory(ids, first, *student)
    assert (free.teacher_argmax >= VOCAB).any()
    with CompletionsServer(large, names_ids=mode == "ids").running() as url:
        teacher = teacher_at(url, mode=mode, top_logprobs=VOCAB + 60)
        if mode != "ids":  # there only the student's tokens and the favourite are told
            assert decode(teacher, config)[0] == expected
        decode(teacher, config)
        actual = teacher.label_trajectory(ids, first, *student, vocabulary=VOCAB)
    assert (actual.teacher_argmax < VOCAB).all()
    if mode != "ids":
        assert torch.equal(actual.teacher_argmax, labels.teacher_argmax)


def test_a_kept_echo_serves_one_question_only(large, tmp_path):
    """A candidate's echo is that of a trajectory which ends with it, and holds one token of it."""
    ids, candidates = list(range(5, 12)), list(range(20, 26))
    student = torch.tensor([[5, 6], [6, 7], [8, 9], [8, 9]]), torch.zeros(4, 2)
    trajectory = torch.tensor([*ids, candidates[0]])
    with CompletionsServer(large, most=2).running() as url:
        teacher = teacher_at(url, mode="exact", cache_dir=tmp_path)
        expected = teacher_at(url, mode="exact").label_trajectory(trajectory, 4, *student)
        for _ in range(2):
            scores = teacher.candidate_logprobs(ids, candidates)
            assert torch.equal(teacher.label_trajectory(trajectory, 4, *student).kl, expected.kl)
        assert scores == teacher_at(url, mode="exact").candidate_logprobs(ids, candidates)


def test_a_server_has_no_vocabulary_wide_logits(large):
    with pytest.raises(NotImplementedError, match="use label_trajectory"):
        Teacher.from_server("http://127.0.0.1:9", "tiny").score_trajectory(torch.arange(9), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "best"}, "mode must be one of auto, ids, exact, top, got best"),
        ({"prompt": "text"}, "tokenizer must be given for prompt='text'"),
        ({"top_logprobs": 0}, "top_logprobs must be at least 1"),
        ({"floor": 1.0}, "floor must be at most 0 nats"),
        ({"timeout": 0.0}, "timeout must be above 0"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"timeout": math.inf}, "timeout must be finite, got inf"),
        ({"timeout": None}, "timeout must be a number, got None"),
        ({"backoff": math.nan}, "backoff must be finite, got nan"),
        ({"retries": 1.5}, "retries must be an integer, got 1.5"),
        ({"concurrency": 2.0}, "concurrency must be an integer, got 2.0"),
        ({"top_logprobs": "20"}, "top_logprobs must be an integer, got '20'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Teacher.from_server("http://127.0.0.1:9", "tiny", **options)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="url must be http"):
        Teacher.from_server(url, "tiny")


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["a"], "token_logprobs": [-1.0]},
        {"tokens": ["a"], "token_logprobs": [-1.0, -2.0], "top_logprobs": [{}]},
        {"tokens": ["a"], "token_logprobs": ["high"], "top_logprobs": [{"a": -1.0}]},
        {"tokens": ["a"], "token_logprobs": [3.0], "top_logprobs": [{"a": 3.0}]},
        {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [None]},
        {"tokens": [None], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}]},
        {"content": [{"token": "a"}]},
        {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": [{"logprob": -1.0}]}]},
        {"content": [{"id": 1.5, "logprob": -1.0, "top_logprobs": [{"id": 1, "logprob": -1.0}]}]},
        {"content": []},
        [],
    ],
)
def test_log_probabilities_of_unknown_shape_are_unusable(logprobs):
    for parse in (parse_next, lambda choice: parse_echo(choice, 2, 1)):
        with pytest.raises(ValueError):
            parse({"logprobs": logprobs})


def test_a_name_is_the_id_or_the_text_where_there_is_none():
    entry = {"id": None, "token": "a", "logprob": -1.0}
    for extra, name in (({}, "a"), ({"id": 7}, 7)):
        entry |= extra
        record = parse_next({"logprobs": {"content": [{**entry, "top_logprobs": [entry]}]}})
        assert record == {"chosen": [name, -1.0], "top": [[name, -1.0]]}
    for odd in (-5, "token_id:-5", "token_id:\u00b2"):
        assert Position({"chosen": [odd, -1.0], "top": []}, TokenNames()).argmax == -1
