"Pages about run folders: what was run, the figures, the files."

import json
from pathlib import Path

PICTURES = {".png", ".svg", ".jpg"}
SHOWN = PICTURES | {".ipynb", ".json", ".csv", ".yaml", ".yml", ".md", ".txt"}  # what a page shows or links to
WEIGHTS = {".safetensors", ".npz"}  # named with their size, not copied into the site
FACTS = ("device", "threads", "commit", "torch", "started")  # of manifest.json


def run_folders(
    reports: Path,  # folder of the runs
) -> list[Path]:  # those with something to show
    "The run folders, by name."
    if not reports.is_dir():
        return []
    return [folder for folder in sorted(reports.iterdir()) if folder.is_dir() and files(folder, SHOWN)]


def files(
    folder: Path,  # a run folder
    kinds: set[str],  # endings
) -> list[Path]:  # the files with such an ending, those of subfolders too
    "The files of a run that the site knows."
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in kinds and path.is_file()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def facts(
    folder: Path,  # a run folder
) -> dict[str, str]:  # what manifest.json says, in words
    "Where and how long a run ran."
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    manifest = json.loads(path.read_text(encoding="utf-8"))
    found = {name: str(manifest[name]) for name in FACTS if manifest.get(name) not in (None, "")}
    if manifest.get("wall_seconds"):
        found["time"] = f"{manifest['wall_seconds'] / 60:.1f} minutes"
    return found


def size(
    path: Path,  # a file
) -> str:  # its size, in words
    "The size of a file."
    n = path.stat().st_size
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB" if n >= 1e3 else f"{n} bytes"


def run_page(
    folder: Path,  # a run folder
) -> str:  # Markdown; its links are relative to the folder
    "What a run folder holds: its notebook, the facts of the run, all figures and files."
    parts = [f"# Run {folder.name}"]
    executed = [path for path in files(folder, SHOWN) if path.suffix == ".ipynb"]
    parts += [f"Executed notebook: [{path.name}]({path.relative_to(folder).as_posix()})" for path in executed]
    rows = [f"| {name} | {value} |" for name, value in facts(folder).items()]
    if rows:
        parts.append("\n".join(["| fact | |", "| --- | --- |", *rows]))
    pictures = files(folder, PICTURES)
    if pictures:
        parts.append("## Figures")
    for path in pictures:
        name = path.relative_to(folder).as_posix()
        parts += [f"### {path.stem.replace('_', ' ')}", f"![{path.stem} of the run {folder.name}]({name})"]
    parts.append("## Files")
    rows = []
    for path in files(folder, SHOWN | WEIGHTS):
        name = path.relative_to(folder).as_posix()
        rows.append(f"| {name if path.suffix in WEIGHTS else f'[{name}]({name})'} | {size(path)} |")
    parts.append("\n".join(["| file | size |", "| --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"
