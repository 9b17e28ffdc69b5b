"""The `.s2t` of a result: what happened at every step, and its JSON lines."""

import json
import math

import pytest
import torch
from architectures import PAD, PROMPT
from models import WAYS_IN, build_model, make_selector, prompts, tiny_model, way_in

from s2t_ext import DecodingRecord, S2TConfig, S2TGenerateOutput, StepEvent, last_record
from s2t_ext.decoding.record import RowRecord

HALF = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)


def run(config=HALF, **options):
    model, inputs = tiny_model("llama"), prompts(True)
    events = []
    generate = way_in(
        "generate", model, config, make_selector(model), seed=3, on_step=events.append
    )
    output = generate(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=10,
        return_dict_in_generate=True,
        **options,
    )
    return output, events


def test_sequences_that_a_choice_ended():
    """Every token that a choice brought about, or that came by itself, as the end of the answer."""
    always = S2TConfig(k=4, trigger="always", warmup_steps=0)
    _, events = run(always, eos_token_id=None, pad_token_id=PAD)
    kinds = set()
    for step, event in enumerate(events):
        token, ordinary = int(event.tokens[0]), int(event.ordinary[0])
        if any(token == int(e.tokens[0]) for e in events[:step]):
            continue  # it would have ended earlier
        output, _ = run(always, eos_token_id=[token], pad_token_id=PAD)
        row = output.s2t.rows[0]
        assert row.tokens[-1] == token and row.steps == step + 1
        assert row.ended_by_choice == (token != ordinary)
        assert output.s2t.ended_by_choice == sum(r.ended_by_choice for r in output.s2t.rows)
        both, _ = run(always, eos_token_id=[token, ordinary], pad_token_id=PAD)
        assert not both.s2t.rows[0].ended_by_choice  # it would have ended there anyhow
        kinds.add(row.ended_by_choice)
    assert True in kinds
    assert output.s2t.summary()["ended_by_choice"] == output.s2t.ended_by_choice
    cut_off, _ = run(always, eos_token_id=None, pad_token_id=PAD)
    assert cut_off.s2t.ended_by_choice == 0


def test_rows_tell_what_was_generated():
    """Up to and with the token that ended the row."""
    output, _ = run()
    assert isinstance(output, S2TGenerateOutput) and isinstance(output.s2t, DecodingRecord)
    new = output.sequences[:, PROMPT:]
    lengths = set()
    for row, tokens in zip(output.s2t.rows, new.tolist(), strict=True):
        assert row.tokens == tokens[: row.steps]
        assert set(tokens[row.steps :]) <= {PAD}
        assert len(row.entropies) == len(row.statistics) == row.steps
        assert row.triggered_steps == [t for t, u in enumerate(row.statistics) if u < 0.5]
        assert len(row.chosen_ranks) == len(row.triggered_steps)
        changed = [
            step
            for step, rank in zip(row.triggered_steps, row.chosen_ranks, strict=True)
            if rank > 0
        ]
        assert row.changed_steps == changed
        lengths.add(row.steps)
    assert len(lengths) > 1  # one ended early
    assert output.s2t.steps == sum(row.steps for row in output.s2t.rows)
    assert 0 < output.s2t.changed_tokens <= output.s2t.triggers < output.s2t.steps
    assert output.s2t.trigger_rate == output.s2t.triggers / output.s2t.steps


def test_events_tell_it_as_it_happens():
    output, events = run()
    assert [event.step for event in events] == list(range(len(events)))
    assert torch.equal(torch.stack([e.tokens for e in events], dim=1), output.sequences[:, PROMPT:])
    for event in events:
        assert isinstance(event, StepEvent)
        assert not (event.triggered & ~event.active).any()
        assert torch.equal(event.changed, event.triggered & (event.tokens != event.ordinary))
        assert (event.scores is None) == (not event.triggered.any())
        for b in event.triggered.nonzero().flatten().tolist():
            assert event.candidates[b, event.slot[b]] == event.tokens[b]
            assert event.slot[b] == event.scores[b].argmax()
        assert (event.slot[~event.triggered] == 0).all()
        assert torch.equal(event.ordinary[event.active], event.candidates[event.active, 0])


def test_a_sampled_token_is_changed_by_a_choice_that_takes_another():
    """Compared with the token that would have been drawn, not with the favourite."""
    output, events = run(do_sample=True, top_k=0)
    changed = sum(int(event.changed.sum()) for event in events)
    assert changed == output.s2t.changed_tokens > 0
    assert any((event.changed & (event.slot == 0)).any() for event in events)


@pytest.mark.parametrize("step", ["tree", "expand"])
def test_phases_are_timed(step):
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, step=step)
    record = run(config)[0].s2t
    assert set(record.milliseconds) == {
        "prefill",
        "propose",
        "trigger",
        "candidate_forward",
        "score_and_select",
        "commit",
        "forward",
    }
    assert all(value > 0 for value in record.milliseconds.values())
    assert record.step_mode == step
    assert record.teacher_forward_passes == 0


def strict(line: str) -> dict:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


def test_jsonl(tmp_path):
    output, _ = run()
    path = output.s2t.write_jsonl(tmp_path / "trace.jsonl")
    summary, *rows = [strict(line) for line in path.read_text().splitlines()]
    assert summary == {"kind": "summary", **output.s2t.summary()}
    assert summary["triggers"] == output.s2t.triggers and summary["step_mode"] == "tree"
    for index, (line, row) in enumerate(zip(rows, output.s2t.rows, strict=True)):
        assert line.pop("kind") == "row" and line.pop("row") == index
        assert RowRecord(**line) == row


def test_jsonl_has_no_numbers_that_json_has_not(tmp_path):
    """One candidate has an infinite margin."""
    config = S2TConfig(k=1, trigger="margin", threshold=1.0)
    output, _ = run(config)
    assert set(output.s2t.rows[0].statistics) == {math.inf}
    path = output.s2t.write_jsonl(str(tmp_path / "trace.jsonl"))
    rows = [strict(line) for line in path.read_text().splitlines()][1:]
    assert set(rows[0]["statistics"]) == {None}


def test_an_empty_record():
    record = DecodingRecord()
    record.finish()
    assert record.rows == [] and record.trigger_rate == 0.0
    assert record.summary()["steps"] == 0


def test_printed_it_shows_totals_alone():
    record = run()[0].s2t
    assert repr(record) == (
        f"DecodingRecord({len(record.rows)} rows, {record.steps} steps, {record.triggers} choices, "
        f"{record.changed_tokens} changed, {record.forward_passes} forward passes, "
        "step_mode='tree')"
    )
    table = record._repr_html_()
    assert table.startswith("<table>") and table.count("<tr>") == len(record.summary())
    assert f"{record.triggers}</td>" in table


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_last_record_of_a_model(way):
    """The one thing that is left of a call that returns only ids."""
    model, inputs = build_model("llama"), prompts(True)
    assert last_record(model) is None
    generate = way_in(way, model, HALF, make_selector(model), seed=3)
    for length in (10, 6):
        ids = generate(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=length)
        assert isinstance(ids, torch.Tensor)
    record = last_record(model)
    new = ids[:, inputs.ids.shape[1] :].tolist()
    assert [row.tokens for row in record.rows] == [
        tokens[: row.steps] for tokens, row in zip(new, record.rows, strict=True)
    ]
    assert record.triggers > 0
