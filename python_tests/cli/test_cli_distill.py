"""From prompts to a folder that serves anywhere, by the commands: collect, distill, export."""

import json

import pytest
import torch
from collecting import PROMPTS, make_model
from command_line import call, error_of
from peft import AutoPeftModelForCausalLM
from research_lines import lines_of, write
from transformers import AutoModelForCausalLM

import s2t_ext
from s2t_ext import LossConfig, Selector
from s2t_ext.cli.common import load_model
from s2t_ext.cli.distill import loss_config
from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.exporting.card import _verdict
from s2t_ext.exporting.folder import upload
from s2t_ext.hf.adapters import has_adapter

FLOAT = ("--dtype", "float32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student, a teacher, prompts, and what `collect` and `distill` make of them."""
    root = tmp_path_factory.mktemp("distill")
    for name, seed in (("student", 1), ("teacher", 2)):
        make_model(seed).save_pretrained(root / name)
        make_tokenizer().save_pretrained(root / name)
    records = [{"prompt": p, "group": str(i % 5)} for i, p in enumerate(PROMPTS)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    stdout, _ = call(
        "collect", "--model", root / "student", "--teacher", root / "teacher",
        "--prompts", root / "prompts.jsonl", "--output", root / "data", "--k", 4,
        "--share", 0.3, "--rollouts", 2, "--temperature", 1.0, "--max-new-tokens", 14,
        "--held-out", 0.4, "--teacher-topk", 8, "--no-chat", "--json", *FLOAT,
    )  # fmt: skip
    counts = json.loads(stdout)
    assert counts["train"]["trajectories"] + counts["held_out"]["trajectories"] == 20
    assert counts["held_out"]["groups"] > 0 and counts["train"]["groups"] > 0
    stdout, _ = call(*distill_command(root, "lora"), "--plot", "--json")
    assert json.loads(stdout)["groups"] == counts["held_out"]["groups"]
    return root


def distill_command(root, method, data="data"):
    return (
        "distill", "--model", root / "student", "--collection", root / data,
        "--output", root / f"run-{method}-{data}", "--method", method, "--epochs", 1,
        "--k", 3, "--trigger-rate", 0.1, *FLOAT,
    )  # fmt: skip


def test_a_run_leaves_a_selector_with_its_card(folders):
    run = folders / "run-lora-data"
    card = (run / "selector" / "README.md").read_text()
    assert "# Select-to-Think selector for student" in card and "Distilled from teacher" in card
    assert "10 prompts, 4 candidates at the 30% of steps" in card
    assert "| agreement with the teacher | 0." in card and "* trigger `entropy`: threshold" in card
    assert "base_model:" not in card  # a folder's name is no repository
    assert str(folders) not in card
    assert (run / "metrics.png").read_bytes().startswith(b"\x89PNG")
    quality = json.loads((run / "quality.json").read_text())
    assert f"{quality['gained']} groups gained, {quality['lost']} lost, McNemar p = " in card
    assert f"in {quality['agreement']:.0%} of the groups (95 % interval " in card


def test_the_program_on_a_card_runs(folders, capsys):
    """With the paths and the prompt put in."""
    selector = folders / "run-lora-data" / "selector"
    program = (selector / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = program.replace("PATH OF THE BASE MODEL", str(folders / "student"))
    program = program.replace("THIS FOLDER", str(selector)).replace('"..."', repr(PROMPTS[0]))
    exec(program.replace("256", "12"), {})
    assert capsys.readouterr().out.startswith(PROMPTS[0][:10])


@pytest.mark.parametrize(
    ("won", "lost", "words"),
    [
        (1, 0, "1 groups gained, 0 lost, McNemar p = 1; not distinguishable from"),
        (20, 2, "better than the student's own"),
        (2, 20, "worse than the student's own"),
    ],
)
def test_a_card_says_whether_its_numbers_tell_anything(won, lost, words):
    quality = dict(groups=100, gained=won, lost=lost)
    quality |= dict(agreement=0.5 + (won - lost) / 100, student_agreement=0.5)
    assert words in _verdict(quality)


def test_a_merged_export_serves_as_a_plain_folder(folders, tmp_path):
    selector = folders / "run-lora-data" / "selector"
    stdout, _ = call("export", selector, tmp_path, "--model", folders / "student", *FLOAT)
    assert stdout == f"{selector} -> {tmp_path}\n"
    card, own = (tmp_path / "README.md").read_text(), (selector / "README.md").read_text()
    assert own.split("---", 2)[2].strip() in card and "- custom_generate" in card
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    adapted = Selector.from_pretrained(selector, make_model(1))
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(merged(ids).logits, adapted.adapted_model(ids).logits)
    options = dict(max_new_tokens=8, do_sample=False)
    alone = s2t_ext.generate(
        merged, ids, selector=Selector.from_pretrained(tmp_path, merged), **options
    )
    assert torch.equal(
        alone, s2t_ext.generate(adapted.adapted_model, ids, selector=adapted, **options)
    )


def test_an_unmerged_export_keeps_the_adapter_apart(folders, tmp_path):
    selector = folders / "run-lora-data" / "selector"
    call("export", selector, tmp_path, "--model", folders / "student", "--no-merge", *FLOAT)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "model.safetensors").exists()
    assert Selector.from_pretrained(tmp_path, make_model(1)).adapted_model is not None


def test_without_an_adapter_there_is_nothing_to_keep_apart(folders, tmp_path):
    call(*distill_command(folders, "rows"))
    selector = folders / "run-rows-data" / "selector"
    command = ("export", selector, tmp_path, "--model", folders / "student", *FLOAT)
    assert error_of(*command, "--no-merge") == (
        "export: merge must be on for a selector without adapter, got off"
    )
    call(*command)
    assert Selector.from_pretrained(tmp_path, make_model(1)).adapted_model is None


def test_full_fine_tuning_leaves_a_model_folder(folders):
    """With the tokenizer, so that the commands load it."""
    call(*distill_command(folders, "full"))
    run = folders / "run-full-data"
    text, _ = call(
        "generate", "--model", run / "model", "--selector", run / "selector",
        "--prompt", PROMPTS[0], "--max-new-tokens", 5, "--no-chat", *FLOAT,
    )  # fmt: skip
    assert text.strip()


def test_on_policy_distillation_leaves_an_adapter_that_the_commands_load(folders):
    """The baseline: without a selector, one rank, one module; smaller than 10 kB here."""
    run = folders / "run-tokens"
    command = (
        "distill", "--model", folders / "student", "--collection", folders / "data",
        "--output", run, "--objective", "tokens", "--epochs", 2, "--lora-r", 2, "--lora-alpha", 4,
        "--lora-targets", "q_proj,v_proj", "--learning-rate", 1e-2, *FLOAT,
    )  # fmt: skip
    rule = "loss must have teacher_kl_weight or sft_weight above 0 for objective='tokens'"
    assert rule in error_of(*command)
    stdout, _ = call(*command, "--prefix-kl", "teacher", "--plot", "--json")
    assert json.loads(stdout)["teacher_kl"] > 0 and not (run / "selector").exists()
    assert (run / "metrics.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert written["r"] == 2 and written["lora_alpha"] == 4
    assert sorted(written["target_modules"]) == ["q_proj", "v_proj"]
    assert (run / "adapter" / "adapter_model.safetensors").stat().st_size < 10_000
    model, _ = load_model(str(run / "adapter"), "float32")
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = AutoPeftModelForCausalLM.from_pretrained(run / "adapter")(ids).logits
    torch.testing.assert_close(model(ids).logits, expected)
    assert not torch.allclose(expected, make_model(1)(ids).logits, atol=1e-6, rtol=0)
    assert not has_adapter(model)  # nothing that takes an adapter off, such as greedy, undoes it
    assert all(parameter.requires_grad for parameter in model.parameters())
    text, _ = call(
        "generate", "--model", run / "adapter", "--prompt", PROMPTS[0],
        "--max-new-tokens", 5, "--no-chat", *FLOAT,
    )  # fmt: skip
    assert text.strip()


def test_prefix_kl_options():
    assert loss_config("kl", "selector", None, None, 0.0).to_dict() == LossConfig("kl").to_dict()
    teacher = loss_config("top1", "selector", "teacher", 0.5, 0.0)
    assert (teacher.base_kl_weight, teacher.teacher_kl_weight) == (0.0, 0.5)
    sft = loss_config("top1", "tokens", None, None, 2.0)
    assert (sft.base_kl_weight, sft.teacher_kl_weight, sft.sft_weight) == (0.0, 0.0, 2.0)
    with pytest.raises(ValueError, match="--prefix-kl-weight must come with --prefix-kl"):
        loss_config("top1", "tokens", None, 1.0, 1.0)


def test_a_run_begins_with_the_head_of_another(folders):
    call(*distill_command(folders, "rows"))
    start = folders / "run-rows-data" / "selector"
    command = [*distill_command(folders, "lora"), "--start", start]
    command[command.index("--output") + 1] = folders / "run-lora-from-rows"
    call(*command)
    before = [
        json.loads((folders / run / "metrics.jsonl").read_text().splitlines()[0])["held_out"]
        for run in ("run-lora-from-rows", "run-lora-data")
    ]
    after_rows = json.loads((folders / "run-rows-data" / "quality.json").read_text())
    assert before[0]["trigger_auc"] == pytest.approx(after_rows["trigger_auc"], abs=1e-6)
    # A head that has learnt nothing is the entropy.
    assert before[1]["trigger_auc"] == pytest.approx(before[1]["entropy_auc"])


def test_groups_of_the_research_code(folders):
    both = [Collection(folders / "data").trajectories(split) for split in ("train", "held_out")]
    path = write(folders / "groups.jsonl", lines_of([*both[0], *both[1]]))
    stdout, _ = call(
        "import-groups", path, "--model", folders / "student", "--output", folders / "imported",
        "--held-out", 0.3, "--json", *FLOAT,
    )  # fmt: skip
    assert json.loads(stdout)["train"]["groups"] > 0
    call(*distill_command(folders, "rows", "imported"))
    card = (folders / "run-rows-imported" / "selector" / "README.md").read_text()
    assert "groups collected by the released research code" in card and "nan" not in card


def test_upload(folders, monkeypatch):
    """What is asked of the hub; there is none here."""
    asked = []

    class Hub:
        def create_repo(self, repo_id, private, exist_ok):
            asked.append((repo_id, private, exist_ok))
            return f"https://hub/{repo_id}"

        def upload_folder(self, **arguments):
            asked.append(arguments)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert (
        upload(folders / "run-lora-data" / "selector", "me/it", private=True) == "https://hub/me/it"
    )
    assert asked[0] == ("me/it", True, True) and asked[1]["repo_id"] == "me/it"


def test_the_states_that_decoding_meets(folders, tmp_path):
    """Rollouts with a selector's choices, labelled where an entropy trigger fires, and trained on:
    one round of data aggregation (DAgger).
    """
    call(*distill_command(folders, "rows"))
    selector = folders / "run-rows-data" / "selector"
    call(
        "collect", "--model", folders / "student", "--teacher", folders / "teacher",
        "--prompts", folders / "prompts.jsonl", "--output", tmp_path / "data", "--k", 4,
        "--steps", "entropy", "--entropy-threshold", 0.5, "--held-out", 0.4, "--held-out-by",
        "prompt", "--policy", "s2t-local", "--selector", selector, "--trigger", "always",
        "--max-new-tokens", 14, "--no-chat", *FLOAT,
    )  # fmt: skip
    settings = Collection(tmp_path / "data").manifest["settings"]
    assert settings["decoding"]["trigger"] == "always" and settings["held_out_by"] == "prompt"
    call(
        "distill", "--model", folders / "student", "--collection", tmp_path / "data", "--output",
        tmp_path / "run", "--method", "rows", "--epochs", 1, "--k", 3, *FLOAT,
    )  # fmt: skip
    card = (tmp_path / "run" / "selector" / "README.md").read_text()
    assert "4 candidates at the steps with an entropy above 0.5 nats of rollouts with" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--policy", "s2t-local"),
            "--selector must be given for --policy s2t-local and no other, got None for s2t-local",
        ),
        (("--policy", "sampling"), "--temperature must be above 0 for --policy sampling, got 0.0"),
        (
            ("--policy", "greedy", "--temperature", 0.5),
            "--temperature must be 0 for --policy greedy, got 0.5",
        ),
        (
            ("--threshold", 0.5),
            "--threshold must be left out without a policy that chooses, got 0.5",
        ),
    ],
)
def test_policies_of_rollouts_that_do_not_fit(folders, options, message):
    command = ("collect", "--model", folders / "student", "--teacher", folders / "teacher")
    command = (*command, "--prompts", folders / "prompts.jsonl", "--output", folders / "other")
    assert error_of(*command, *options) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "one of --prompts and --task must be given, got both or none"),
        (("--prompts", "nowhere"), "--prompts must be a file, got nowhere"),
        (
            ("--task", "gsm_symbolic", "--prompts", "nowhere"),
            "one of --prompts and --task must be given, got both or none",
        ),
    ],
)
def test_collect_says_no_in_one_line(folders, options, message):
    command = ("collect", "--model", folders / "student", "--teacher", folders / "teacher")
    assert error_of(*command, "--output", folders / "other", *options) == message
