"""The page that shows a decoding: what it contains, and how it behaves in a browser."""

import json
import re

import chromium
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import s2t_ext
from s2t_ext.analysis.trace import trace
from s2t_ext.cli import app
from s2t_ext.decoding.trace import text_pieces
from s2t_ext.demo import ASSETS
from s2t_ext.runs.trace_page import trace_page

PROMPT = (
    "Fiona has 61 berries at the gallery . "
    "one eats 8 . two gets 10 . three loses 2 . four finds 3 . how many now ?"
)
CANDIDATES = "[...document.querySelectorAll('#candidates tbody tr')].map(r => r.innerText)"


@pytest.fixture(scope="module")
def document():
    """The embedded student, greedily and with its selector: one token is changed."""
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "student")
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "student")
    selector = s2t_ext.Selector.from_pretrained(ASSETS / "selector", model)
    return trace(
        model, tokenizer, PROMPT, selector=selector, max_new_tokens=56, use_chat_template=False
    )


@pytest.fixture
def page(document, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(trace_page(document), "utf-8")
    return path


@pytest.fixture
def browser(page):
    if chromium.program() is None:
        pytest.skip("no Chromium on PATH")
    with chromium.Chromium(page.as_uri()) as opened:
        yield opened


def test_a_trace_tells_the_text_its_candidates_and_their_scores(document):
    plain, chosen = document["runs"]
    assert "".join(s["text"] for s in chosen["steps"] if not s["special"]).endswith("64 .")
    assert not any(step["triggered"] for step in plain["steps"])
    (changed,) = [step for step in chosen["steps"] if step["changed"]]
    first, taken = changed["candidates"][:2]
    assert (first["text"], taken["text"]) == ("64", "63") and taken["id"] == changed["token"]
    assert first["logprob"] > taken["logprob"] and first["score"] < taken["score"]
    for run in document["runs"]:
        assert [step["step"] for step in run["steps"]] == list(range(run["summary"]["steps"]))
        for step in run["steps"]:
            assert len(step["candidates"]) == 8
            assert sum(2.71828 ** c["logprob"] for c in step["candidates"]) < 1.001
            assert (step["candidates"][0]["score"] is not None) == step["triggered"]


def test_a_teacher_that_chooses_is_traced_too(tmp_path):
    """By the command, as its users do."""
    page = tmp_path / "page.html"
    result = CliRunner().invoke(
        app,
        [
            *("trace", "--model", str(ASSETS / "student"), "--teacher", str(ASSETS / "teacher")),
            *("--trigger", "entropy", "--threshold", "0.3", "--prompt", PROMPT, "--no-chat"),
            *("--html", str(page), "--json"),
        ],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (changed,) = [step for step in found["runs"][1]["steps"] if step["changed"]]
    best = max(changed["candidates"], key=lambda c: c["teacher"])
    assert best["id"] == changed["token"] and -0.1 < best["teacher"] <= 0  # a log-probability
    assert found["runs"][1]["summary"]["teacher_forward_passes"] == 4
    assert "the teacher selects" in page.read_text()


@pytest.mark.parametrize("given", [[], ["--selector", "s2t_ext/demo", "--teacher", "T"]])
def test_a_trace_is_by_a_selector_or_by_a_teacher(given, tmp_path):
    command = ["trace", "--model", "M", "--prompt", "P", "--html", str(tmp_path / "p.html"), *given]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "either --selector or --teacher" in result.output


def test_the_page_holds_its_document_and_asks_for_nothing(document):
    hostile = {**document, "prompt": "</script><script>alert(1)</script><img src=x onerror=1>"}
    text = trace_page(hostile)
    assert "</script><script>alert" not in text and "<img" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text) and "@import" not in text
    data = re.search(r'<script type="application/json" id="trace">(.*?)</script>', text, re.S)[1]
    assert json.loads(data)["prompt"] == hostile["prompt"]


def test_numbers_that_json_has_not_are_null(document):
    step = {**document["runs"][1]["steps"][0], "statistic": float("inf"), "entropy": float("nan")}
    changed = {**document, "runs": [{"name": "one", "steps": [step]}]}
    assert '"statistic": null' in trace_page(changed)


def test_a_page_needs_a_run():
    with pytest.raises(ValueError, match="document must have at least one run, got none"):
        trace_page({"prompt": "hello", "runs": []})


def test_pieces_of_text_wait_for_whole_characters():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode("utf-8", "replace")

    assert text_pieces(Bytes(), list("aé→".encode())) == ["a", "", "é", "", "", "→"]


def test_a_click_opens_the_candidates(browser):
    browser.click("[data-run='1'][data-step='5']")
    rows = browser.evaluate(CANDIDATES)
    assert len(rows) == 8 and rows[0].split()[0] == "53" and "✓ taken" in rows[0]
    browser.click("[data-run='1'].changed")
    assert browser.evaluate("document.querySelector('#details h3').innerText") == (
        "Step 12: 63 instead of 64"
    )
    rows = [row.split() for row in browser.evaluate(CANDIDATES)]
    assert rows[0][0] == "64" and "displaced" in rows[0]
    assert rows[1][0] == "63" and "taken" in rows[1]
    # probability and score of both, as in the README's picture
    assert [float(v) for v in rows[0][1:3]] == pytest.approx([0.48, 0.40], abs=0.02)
    assert [float(v) for v in rows[1][1:3]] == pytest.approx([0.37, 0.61], abs=0.02)


def test_keys_do_all_that_the_mouse_does(browser):
    browser.evaluate('document.querySelector(\'[data-run="1"][tabindex="0"]\').focus()')
    focused = "document.activeElement.dataset.step"
    before = int(browser.evaluate(focused))
    browser.press("ArrowRight")
    assert int(browser.evaluate(focused)) == before + 1
    browser.press("Enter")
    assert browser.evaluate("document.querySelector('#details h3').innerText").startswith(
        f"Step {before + 1}:"
    )
    browser.press("n")
    assert browser.evaluate("document.activeElement.classList.contains('triggered')")
    browser.press("Escape")
    assert browser.evaluate("document.getElementById('details').hidden")
    assert browser.evaluate("document.activeElement.getAttribute('role')") == "button"


def test_both_runs_show_their_first_difference_and_totals(browser, document):
    marks = "[...document.querySelectorAll('.fork')].map(e => [e.dataset.run, e.dataset.step])"
    assert browser.evaluate(marks) == [["0", "12"], ["1", "12"]]
    totals = browser.evaluate("document.getElementById('totals').innerText")
    assert "greedy" in totals and "4 (11.4 %)" in totals and "1 (2.9 %)" in totals
    assert browser.evaluate("document.querySelectorAll('.strip rect').length") == sum(
        len(run["steps"]) for run in document["runs"]
    )
    assert PROMPT in browser.evaluate("document.body.innerText")


def test_another_threshold_counts_its_choices(browser):
    moved = browser.evaluate(
        "(() => { const s = document.querySelector('.threshold input'); s.value = 1.2;"
        "s.dispatchEvent(new Event('input')); return s.nextSibling.value; })()"
    )
    assert moved.startswith("above 1.2") and "3 of 35 steps" in moved


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 900, 1500])
def test_nothing_is_wider_than_the_window_or_fails(page, width, dark):
    if chromium.program() is None:
        pytest.skip("no Chromium on PATH")
    with chromium.Chromium(page.as_uri(), size=(width, 900), dark=dark) as browser:
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not browser.evaluate(wide)
        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(13, 17, 23)") == dark
        wrong = ("Runtime.exceptionThrown", "Log.entryAdded")
        assert not [event for event in browser.events if event.get("method") in wrong]
        asked = [e for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
        assert {e["params"]["request"]["url"] for e in asked} == {page.as_uri()}
