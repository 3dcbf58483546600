"""The front page: small, current, and without a link that leads nowhere; the page of results is what the reports give
today."""

import ast
import json
import re

import nbformat
import pytest
from conftest import ROOT

from cdrl.lab.claims import judge_all, judge_cases, load_findings, load_questions, read_metrics
from cdrl.lab.front import findings_table, notebook_map, times_table, verdict_counts, zoo_table
from cdrl.lab.reports import Reports
from cdrl.lab.runs import mend_links

README = (ROOT / "README.md").read_text()
INDEX = nbformat.read(ROOT / "nbs/index.ipynb", as_version=4)
TABLES = [times_table, findings_table, verdict_counts, zoo_table, notebook_map]


def for_root(text):
    """Links of a notebook in nbs/ as they are in README.md (the same as in .ci/readme)."""
    return re.sub(r"\]\(([0-9a-z_]+\.ipynb(#[^)]*)?)\)", r"](nbs/\1)", text.replace("](../", "]("))


def links(text):
    """Relative links and pictures of a markdown text."""
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith(("http", "mailto"))]


def lead_somewhere(text, base):
    """The links of a text that do not: files that are missing, and headings of notebooks that are not there."""
    lost = []
    for target in links(text):
        path, _, heading = target.partition("#")
        file = base / path
        if not file.exists():
            lost.append(target)
        elif heading and file.suffix == ".ipynb":
            cells = nbformat.read(file, as_version=4).cells
            if not any(
                line.lstrip("# ").replace(" ", "-") == heading
                for c in cells
                for line in c.source.split("\n")
                if line.startswith("#")
            ):
                lost.append(target)
    return lost


def test_the_front_page_is_small():
    assert len(README.encode()) <= 9000


@pytest.mark.parametrize("make", TABLES, ids=lambda f: f.__name__)
def test_tables_of_the_front_page_are_current(make):
    assert for_root(make().data) in README


def test_every_link_of_the_front_page_leads_somewhere():
    source = "\n".join(c.source for c in INDEX.cells if c.cell_type == "markdown") + "\n".join(
        make().data for make in TABLES
    )
    assert lead_somewhere(README, ROOT) == [] and lead_somewhere(source, ROOT / "nbs") == []
    assert len(links(README)) > 50


def test_what_a_newcomer_looks_for_is_one_click_away():
    found = links(README)
    for target in (
        "reports/results/results.ipynb",
        "reports/cost/cost.ipynb",
        "nbs/09_trainer.ipynb#When-the-loss-blows-up",
        "reports/evaluate-emoji/evaluate.ipynb",
        "reports/baselines-digits/baselines.ipynb",
        "reports/results/figures/front.png",
        "nbs/24_grid.ipynb",
    ):
        assert target in found, target


def test_the_front_page_has_no_program():
    for c in INDEX.cells:
        if c.cell_type != "code":
            continue
        lines = [line for line in c.source.split("\n") if not line.startswith("#|")]
        assert len(lines) <= 3, c.source
        assert not any(
            isinstance(node, (ast.JoinedStr, ast.Lambda, ast.FunctionDef, ast.For))
            for node in ast.walk(ast.parse("\n".join(lines)))
        ), c.source


def test_pictures_of_the_front_page_are_small():
    for name in ("front", "method"):
        assert (ROOT / f"reports/results/figures/{name}.png").stat().st_size < 300_000


def test_findings_have_a_sentence_for_every_answer_and_no_number_in_it():
    found = load_findings()
    assert len(found) == 6
    for f in found:
        assert len({f.holds, f.fails, f.mixed}) == 3 and not re.search(r"[0-9]", f.holds + f.fails + f.mixed)


def test_the_committed_page_of_results_is_current():
    """Row by row: topic, claim, verdict, and the figures."""
    stored = json.loads((ROOT / "reports/results/metrics.json").read_text())
    today = judge_all()
    columns = ("topic", "claim", "paper", "verdict", "here", "rule", "runs", "why")
    assert [[r[k] for k in columns] for r in stored["claims"]] == [[r[k] for k in columns] for r in today]
    assert sum(stored["counts"].values()) == len(today)
    page = nbformat.read(ROOT / "reports/results/results.ipynb", as_version=4)
    source = nbformat.read(ROOT / "nbs/results.ipynb", as_version=4)
    assert [c.source for c in page.cells if "injected-parameters" not in c.metadata.get("tags", [])] == [
        mend_links(c.source, ROOT / "nbs", ROOT / "reports/results") for c in source.cells
    ]
    shown = "\n".join(
        o["data"].get("text/markdown", "") for c in page.cells for o in c.get("outputs", []) if "data" in o
    )
    assert all(r["claim"] in shown for r in today) and not any(
        o.output_type == "error" for c in page.cells for o in c.get("outputs", [])
    )
    assert lead_somewhere(shown, ROOT / "reports/results") == []


def test_tables_follow_the_reports(tmp_path):
    """A run that is made again changes the front page; one that is gone leaves it."""
    for run, minutes in (("digits", 1.0), ("emoji", 2.0)):
        (tmp_path / run / "model").mkdir(parents=True)
        (tmp_path / run / "model/model.safetensors").touch()
        (tmp_path / run / "metrics.json").write_text(
            json.dumps(dict(train_minutes=minutes, fd_classifier=1.5, real_test=dict(fd_classifier=0.5)))
        )
    (tmp_path / "digits/manifest.json").write_text(
        json.dumps(dict(notebook="train", wall_seconds=120, device="Fast, 2 cores, AVX512"))
    )
    (tmp_path / "digits/params.yaml").write_text("steps: 5")
    reports = Reports(tmp_path)
    assert zoo_table(reports).data.count("\n") == 3 and "| 1.5 | 0.5 | 2 |" in zoo_table(reports).data
    times = times_table(reports).data
    assert "minutes on two cores of Fast, with AVX-512" in times and "| train | 2 |" in times
    assert "confirmed" not in findings_table(reports).data and findings_table(reports).data.count("\n") == 7


def test_every_question_of_a_reviewer_is_answered():
    metrics = read_metrics()
    for question in load_questions():
        assert question.text or question.cases
        assert len(judge_cases(question.cases, metrics)) == len(question.cases), question.question
