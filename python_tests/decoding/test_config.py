"""S2TConfig: every option is checked once, and survives the way to disk and back."""

import dataclasses
import json
import math

import pytest

import s2t_ext
from s2t_ext import S2TConfig


def test_defaults_are_the_papers():
    config = S2TConfig()
    assert (config.k, config.support, config.trigger, config.warmup_steps) == (8, 64, "entropy", 3)
    assert (config.select, config.proposer, config.step) == ("local", "adapted", "auto")
    assert config.threshold is None and config.score_temperature == config.candidate_ratio == 0


@pytest.mark.parametrize(
    "options",
    [
        dict(k=1, support=1),
        dict(k=64),
        dict(support=0, k=64),
        dict(candidate_ratio=0.999),
        dict(trigger="margin", threshold=-1e9),
        dict(threshold=math.inf),
        dict(trigger="random", threshold=0),
        dict(trigger="random", threshold=1.0),
        dict(trigger="head", threshold=0.5),
        dict(warmup_steps=0),
        dict(score_temperature=2.5),
        dict(override_margin=0.25),
        dict(select="takeover", proposer="base", step="expand", trigger="kl", threshold=0.9),
    ],
)
def test_valid_options(options, tmp_path):
    config = S2TConfig(**options)
    assert S2TConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    config.save_pretrained(tmp_path)
    assert S2TConfig.from_pretrained(tmp_path) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(k=0), "k must be in [1, 64], got 0"),
        (dict(k=65), "k must be in [1, 64], got 65"),
        (dict(k=8.0), "k must be an integer, got 8.0"),
        (dict(k=True), "k must be an integer, got True"),
        (dict(k="8"), "k must be an integer, got '8'"),
        (dict(support=7), "support must be 0 or in [k, 64] with k = 8, got 7"),
        (dict(support=65), "support must be 0 or in [k, 64] with k = 8, got 65"),
        (dict(support=64.0), "support must be an integer, got 64.0"),
        (dict(candidate_ratio=1.0), "candidate_ratio must be in [0, 1), got 1.0"),
        (dict(candidate_ratio=-0.1), "candidate_ratio must be in [0, 1), got -0.1"),
        (dict(candidate_ratio=math.nan), "candidate_ratio must be in [0, 1), got nan"),
        (dict(candidate_ratio=None), "candidate_ratio must be a number, got None"),
        (
            dict(trigger="sometimes"),
            "trigger must be one of entropy, margin, head, kl, random, always, never, got "
            "'sometimes'",
        ),
        (dict(select="best"), "select must be one of local, teacher, takeover, got 'best'"),
        (dict(proposer="both"), "proposer must be one of adapted, base, got 'both'"),
        (dict(step="leap"), "step must be one of auto, tree, expand, got 'leap'"),
        (dict(threshold=math.nan), "threshold must not be NaN, got nan"),
        (dict(threshold="0.5"), "threshold must be a number, got '0.5'"),
        (
            dict(trigger="random", threshold=1.5),
            "threshold must be in [0, 1] for trigger='random', got 1.5",
        ),
        (
            dict(trigger="head", threshold=-0.5),
            "threshold must be in [0, 1] for trigger='head', got -0.5",
        ),
        (dict(warmup_steps=-1), "warmup_steps must be at least 0, got -1"),
        (dict(warmup_steps=1.5), "warmup_steps must be an integer, got 1.5"),
        (dict(score_temperature=-1), "score_temperature must be at least 0 and finite, got -1.0"),
        (
            dict(score_temperature=math.inf),
            "score_temperature must be at least 0 and finite, got inf",
        ),
        (
            dict(score_temperature=math.nan),
            "score_temperature must be at least 0 and finite, got nan",
        ),
        (dict(override_margin=-0.5), "override_margin must be at least 0 and finite, got -0.5"),
        (
            dict(override_margin=math.inf),
            "override_margin must be at least 0 and finite, got inf",
        ),
        (dict(score_temperature="1"), "score_temperature must be a number, got '1'"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(ValueError) as error:
        S2TConfig(**options)
    assert str(error.value) == f"S2TConfig: {message}"


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        S2TConfig().k = 4
    assert dataclasses.replace(S2TConfig(), k=4).k == 4
    with pytest.raises(ValueError):
        dataclasses.replace(S2TConfig(), k=0)


def test_other_options_take_what_belongs_to_the_old_ones_along(tmp_path):
    """A threshold is in its trigger's units, a margin in those of what chooses."""
    config = S2TConfig(trigger="entropy", threshold=1.5, override_margin=0.25)
    assert config.with_options(k=4) == dataclasses.replace(config, k=4)
    assert config.with_options(trigger="entropy", select="local") == config
    other = config.with_options(trigger="margin", select="teacher")
    assert (other.threshold, other.override_margin) == (None, 0.0)
    given = config.with_options(
        trigger="margin", threshold=0.3, select="teacher", override_margin=1
    )
    assert (given.threshold, given.override_margin) == (0.3, 1.0)
    config.save_pretrained(tmp_path)
    assert S2TConfig.from_pretrained(tmp_path, trigger="margin", select="teacher") == other
    with pytest.raises(ValueError, match="S2TConfig: options must be among .*, got treshold"):
        config.with_options(treshold=1.0)


def test_unknown_options_are_named():
    with pytest.raises(ValueError) as error:
        S2TConfig.from_dict({"k": 4, "treshold": 1.0, "kk": 2})
    assert str(error.value) == (
        "S2TConfig: options must be among candidate_ratio, k, override_margin, proposer, "
        "score_temperature, select, step, support, threshold, trigger, warmup_steps, got kk, "
        "treshold"
    )


def test_saving_keeps_the_rest_of_the_file(tmp_path):
    path = tmp_path / "s2t_config.json"
    path.write_text(json.dumps({"format_version": 1, "decoding": {"k": 2}}))
    assert S2TConfig.from_pretrained(tmp_path).k == 2
    assert S2TConfig(k=4).save_pretrained(tmp_path) == path
    assert json.loads(path.read_text())["format_version"] == 1
    assert S2TConfig.from_pretrained(tmp_path, warmup_steps=0) == S2TConfig(k=4, warmup_steps=0)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_makes_the_folder(tmp_path):
    S2TConfig(k=4).save_pretrained(tmp_path / "a" / "b")
    assert S2TConfig.from_pretrained(str(tmp_path / "a" / "b")).k == 4


@pytest.mark.parametrize("content", ["{", "", "\x00\xff", "[1]"])
def test_a_broken_file_is_named(content, tmp_path):
    (tmp_path / "s2t_config.json").write_text(content, encoding="latin-1")
    for use in (S2TConfig.from_pretrained, S2TConfig().save_pretrained):
        with pytest.raises(ValueError) as error:
            use(tmp_path)
        expected = "hold a JSON object, got list" if content == "[1]" else "be valid JSON, got "
        assert str(error.value).startswith(f"S2TConfig: s2t_config.json must {expected}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        S2TConfig.from_pretrained(tmp_path)
    assert "s2t_config.json must be in the checkpoint" in str(error.value)


def test_public_names():
    """`dir` and attribute access agree, and nothing is promised that is not there."""
    for name in s2t_ext.__all__:
        assert name in dir(s2t_ext) and getattr(s2t_ext, name) is not None
    with pytest.raises(AttributeError) as error:
        s2t_ext.nothing  # noqa: B018
    assert str(error.value) == "module 's2t_ext' has no attribute 'nothing'"
