"""Groups as the released research code writes them."""

import json


def lines_of(trajectories, longest=511) -> list[dict]:
    """As that code writes them: a context per group, cut on the left."""
    lines = []
    for number, trajectory in enumerate(trajectories):
        tokens = [*trajectory.prompt, *trajectory.response]
        for group in trajectory.groups:
            context = tokens[: len(trajectory.prompt) + group.step]
            lines.append(
                {
                    "problem_id": number,
                    "step": group.step,
                    "group_id": f"{number}_{group.step}",
                    "context_ids": context[-longest:],
                    "cand_ids": list(group.candidates),
                    "teacher_prob_abs": list(group.teacher_probs),
                }
            )
    return lines


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
