"""The documents do what they say: code blocks run, verbs and commands exist, links lead somewhere."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
LOOP = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "your-own-loop.md").read_text(encoding="utf-8"), flags=re.S)
PYTHON_NAMES = {
    "list": "methods",
    "bench": "benchmark",
    "select": "select_story",
    "bench-kit": "bench_kit",
    "device": "add_device",
}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_python_blocks_run(number: int, tmp_path: Path) -> None:
    """Each block as a script of its own, as a stranger would paste it."""
    script = tmp_path / "block.py"
    script.write_text(BLOCKS[number])
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_page_on_your_own_loop_runs(tmp_path: Path) -> None:
    """Its blocks one after another, as the page says."""
    script = tmp_path / "loop.py"
    script.write_text("\n".join(LOOP))
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    shares = [float(share) for share in re.findall(r"^answered right: ([\d.]+)$", done.stdout, flags=re.M)]
    assert len(shares) == 2
    assert min(shares) > 0.8
    assert "audit of round 25: " in done.stdout
    assert "go on with round 26" in done.stdout


def test_the_page_on_your_own_loop_changes_two_lines() -> None:
    plain, selected = ([line.strip() for line in block.splitlines() if line.strip()] for block in LOOP[1:3])
    changes = [line for line in difflib.ndiff(plain, selected) if line[0] in "+-"]
    assert [line for line in changes if line[0] == "-"] == ["- loss = losses.mean()"]
    new, call, told = (line for line in changes if line[0] == "+")
    assert new == "+ import archscout"
    assert "archscout.select(" in call
    assert "loader.observe(" in told


def test_the_page_on_your_own_space_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first two blocks as the file it says, then the others and its command; the device is measured shortly."""
    from archscout import pipeline

    page = (ROOT / "docs" / "your-own-space.md").read_text(encoding="utf-8")
    space, strategy, *others = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    (tmp_path / "own.py").write_text(f"{space}\n\n{strategy}")
    measure = pipeline.measure_profile
    monkeypatch.setattr(pipeline, "measure_profile", lambda *args, **kw: measure(*args, **{**kw, "seconds": 0.1}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    told, names = io.StringIO(), {"__name__": "block"}
    with contextlib.redirect_stdout(told):
        for block in others:
            block = block.replace("epochs=0.5", "epochs=0.5, workers=0, train_threads=1")
            exec(compile(block, "docs/your-own-space.md", "exec"), names)
    assert told.getvalue().splitlines()[-1] == "(2, 0, 1)"
    (command,) = re.findall(r"^    (archscout .*)$", page, flags=re.M)
    run_command(f"{command} --workers 0 --train-threads 1", tmp_path)
    assert "own:stack" in (tmp_path / "runs" / "own" / "architecture.json").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_page_on_your_device_run(tmp_path: Path) -> None:
    """As they stand, in one folder; only the seconds of measuring are fewer."""
    page = (ROOT / "docs" / "your-device.md").read_text(encoding="utf-8")
    (tmp_path / "phone.csv").write_text(re.findall(r"```csv\n(.*?)```", page, flags=re.S)[0])
    commands = re.findall(r"^    ((?:archscout|cd) .*)$", page, flags=re.M)
    assert len(commands) >= 11
    for command in commands:
        run_command(re.sub(r"--seconds \d+", "--seconds 0.05", command), tmp_path)
    assert "Measured on pi4" in (tmp_path / "runs" / "pi4" / "report.html").read_text()
    assert (tmp_path / "profile.html").exists()
    assert (tmp_path / "runs" / "pi4" / "model.int8.onnx").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_to_start_with_runs(tmp_path: Path) -> None:
    """Its commands and blocks in their order, in one folder, but the installation, and with less of the budget."""
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    steps = re.findall(r"^    (archscout [^\n]*)$|^```python\n(.*?)^```", page, flags=re.M | re.S)
    assert sum(bool(command) for command, _ in steps) >= 5
    assert sum(bool(block) for _, block in steps) == 2
    for command, block in steps:
        if command:
            run_command(command.replace("--budget 1m", "--budget 40s"), tmp_path)
        else:
            done = subprocess.run(
                [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=200
            )
            assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "first" / "model.int8.onnx").exists()


@pytest.mark.slow
def test_the_page_on_choosing_names_what_there_is(tmp_path: Path) -> None:
    from archscout.selection import SELECTORS
    from archscout.spaces import SPACES
    from archscout.strategies import STRATEGIES

    page = (ROOT / "docs" / "how-to-choose.md").read_text(encoding="utf-8")
    spaces, strategies, selectors = (
        set(re.findall(r"`([a-z]\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", part, flags=re.M))))
        for part in re.findall(r"^## Which (?:space|strategy|images).*?(?=^## )", page, flags=re.M | re.S)
    )
    assert spaces == set(SPACES)
    assert strategies <= {*STRATEGIES, "darts", "pdarts", "tas"}
    assert {*STRATEGIES} <= strategies
    assert selectors <= set(SELECTORS)
    (tmp_path / "archs.txt").write_text(re.findall(r"```text\n(.*?)```", page, flags=re.S)[0])
    commands = re.findall(r"^    (archscout .*)$", page, flags=re.M)
    for command in commands:
        run_command(command, tmp_path)
    assert (tmp_path / "runs" / "rewarded" / "report.html").exists()
    assert "of another run taught the winner" in (tmp_path / "runs" / "taught" / "report.html").read_text()
    assert len((tmp_path / "ranks.csv").read_text().splitlines()) == 5


def run_command(command: str, folder: Path) -> None:
    """A command of a page, in that folder; here where it is archscout alone, which saves the time of its start."""
    if command.startswith("archscout ") and not re.search(r"[&|;>]", command):
        run_here(command, folder)
        return
    line = re.sub(r"\barchscout (?=\w)", f"{shlex.quote(sys.executable)} -m archscout ", command, count=1)
    line = line.replace("&& python ", f"&& {shlex.quote(sys.executable)} ")
    environment = {**os.environ, "ARCHSCOUT_CONFIG": str(folder / "config")}
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"


def run_here(command: str, folder: Path) -> None:
    from archscout.cli import main

    errors, code = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors):
        patch.chdir(folder)
        patch.setenv("ARCHSCOUT_CONFIG", str(folder / "config"))
        try:
            main(shlex.split(command)[1:])
        except SystemExit as stop:
            code = stop.code  # type: ignore[assignment]
    assert not code, f"{command}\n{errors.getvalue()[-2000:]}"


def test_every_verb_is_in_the_readme_and_has_help() -> None:
    from typer.main import get_command

    from archscout.cli import app, register

    register()
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(re.findall(r"^\| `([\w-]+)` \|", README, flags=re.M))
    for name, command in commands.items():
        assert command.help, name
        assert all(p.help for p in command.params if p.name != "help"), [p.name for p in command.params if not p.help]


def test_every_verb_is_a_python_function() -> None:
    import archscout

    for verb in re.findall(r"^\| `([\w-]+)` \|", README, flags=re.M):
        assert callable(getattr(archscout, PYTHON_NAMES.get(verb, verb))), verb


def test_public_names_are_complete() -> None:
    import archscout

    for name in archscout.__all__:
        assert getattr(archscout, name).__doc__, name
    with pytest.raises(AttributeError):
        archscout.nothing_of_that_name  # noqa: B018


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"]:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_the_cards_of_the_methods_are_made_from_the_code_and_their_blocks_run() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import method_cards
    finally:
        sys.path.pop(0)
    page = method_cards.PAGE.read_text(encoding="utf-8")
    assert method_cards.page() == page, "run python benchmarks/method_cards.py"
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert len(blocks) == len(method_cards.GROUPS)
    for block, (_, _, methods) in zip(blocks, method_cards.GROUPS, strict=True):
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            exec(compile(block, "docs/methods.md", "exec"), {"__name__": "block"})
        silent = [name for name in methods if name not in told.getvalue()]
        assert silent in ([], ["predictor"], ["darts", "pdarts", "tas"]), silent  # of these three one is run
        assert told.getvalue().strip()
    headings = {re.sub(r" ", "-", line) for line in re.findall(r"^### (.*)$", page, flags=re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) == headings


def test_no_card_is_cut_inside_a_sentence() -> None:
    """An item is of a parameter or an option, and a paragraph ends with its sentence or before a list or a formula."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import method_cards
    finally:
        sys.path.pop(0)
    for title, _, methods in method_cards.GROUPS:
        for name, method in methods.items():
            made = method_cards.card(name, title, method)
            known = set(inspect.signature(method).parameters)
            if title == "Search spaces":
                choices = method((3, 32, 32), 10).choices
                known |= {decision.rstrip("0123456789") for decision in choices}
                known |= {str(value) for options in choices.values() for value in (*options, *range(len(options)))}
            elif title == "Selectors":
                known.add("balanced")  # of Random, whose other settings some take too
            items = ", ".join(re.findall(r"^- \*\*(.*?)\*\*: ", made, flags=re.M))
            assert set(filter(None, items.split(", "))) <= known, name
            assert made == made.strip(), name
            blocks = made.split("\n\n")[1:]
            for block, after in zip(blocks, (*blocks[1:], ""), strict=True):
                assert block == block.strip("\n"), name
                lists = [line.startswith("- **") for line in block.splitlines() if not line.startswith(" ")]
                assert all(lists) or not any(lists), block
                goes_on = any(lists) or after.startswith(("- **", "    ")) or block.startswith("    ")
                assert goes_on or re.search(r"[.:]$", block), block


def test_a_line_that_looks_like_an_item_does_not_cut_a_sentence() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from method_cards import prose
    finally:
        sys.path.pop(0)
    assert prose("share:  part of the images.\nrounds, size:  counts,\n        each above 0.") == (
        "- **share**: part of the images.\n- **rounds, size**: counts, each above 0."
    )
    assert prose("share:  part of\n  them.") == "- **share**: part of them."
    for sentence in (
        "Decisions: depth of the stages and the\nconvolutions of a block: the share, .3 to\n1. A block is two.",
        "Source: one paper; as a baseline of\narchitecture search: another.",
        "Fails where labels are wrong, and where a random\nsubset is as good: measure.\nSource: a paper.",
        "It stays, or goes where there is\none: then it is lost.\nnever: a word.",
        "share: part of the images, as a single line.",
    ):
        assert prose(sentence) == " ".join(sentence.split())


def test_the_readme_shows_the_committed_results() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from readme_table import accuracy_row, proof, ranking_table, search_lines, table, training_table
    finally:
        sys.path.pop(0)
    for made in (proof(), table(), ranking_table(), search_lines(), accuracy_row(), training_table()):
        assert " ".join(made.split()) in " ".join(README.split()), "run python benchmarks/readme_table.py"


def test_the_cards_are_made_from_the_committed_files() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import proxy_cards
        import results_file
    finally:
        sys.path.pop(0)
    made = proxy_cards.page(results_file.read(proxy_cards.RESULTS))
    assert made == proxy_cards.PAGE.read_text(encoding="utf-8"), "run python benchmarks/proxy_cards.py"
    for name, proxy in proxy_cards.PROXIES.items():
        assert f"\n## {name}\n" in made
        assert " ".join(proxy.paper.split()) in " ".join(made.split())
    assert not set(re.findall(r"\]\(#(\w+)\)", made)) - set(re.findall(r"^## (\w+)$", made, flags=re.M))
