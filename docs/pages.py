"The pages of the site: what there is to show, where each page stands, and what is written on it."

import configparser
import json
import posixpath
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml
from links import Links
from notebooks import markdown_cell, readable, settings, split_title

from reports import facts, run_folders, run_page

PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")  # beside README.md, if they are there
STORED = "stored"  # folder beside the experiments' pages, for the notebooks as they stand now


@dataclass
class Site:
    "What is known of the pages while they are made."

    root: Path  # the repository
    stage: Path  # where the pages are collected for smalldocs
    nbs: str  # folder of the notebooks
    package: str  # folder of the package
    title: str  # of the site
    description: str  # in one line
    links: Links  # where links lead
    titles: dict[str, tuple[str, str]] = field(default_factory=dict)  # path of a page → title and summary
    runs: dict[str, list[str]] = field(default_factory=dict)  # experiment → executed copies, the one to show first


def read_notebook(
    path: Path,  # a notebook
) -> dict:  # its JSON
    "Read a notebook."
    return json.loads(path.read_text(encoding="utf-8"))


def open_site(
    root: Path,  # the repository
    stage: Path,  # an empty folder
) -> Site:  # with all pages of notebooks and runs planned
    "Find out what there is to show, and where each page will stand."
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(root / "settings.ini", encoding="utf-8")
    told = config["DEFAULT"]
    links = Links(root, stage, pages={})
    site = Site(root, stage, told["nbs_path"], told["lib_path"], told["title"], told["description"], links)
    find_runs(site)
    plan(site)
    return site


def find_runs(site: Site) -> None:
    "Find the executed copies of each experiment; first the one whose settings are nearest to the notebook's defaults."
    found = {}
    for folder in run_folders(site.root / "reports"):
        for path in sorted(folder.glob("*.ipynb")):
            if not (site.root / site.nbs / path.name).is_file():
                continue
            changed = settings(read_notebook(path))
            found.setdefault(path.stem, []).append((len(changed), path.relative_to(site.root).as_posix()))
    site.runs = {name: [path for _, path in sorted(copies)] for name, copies in sorted(found.items())}


def plan(site: Site) -> None:
    "Say which file of the repository has which page."
    pages = site.links.pages
    pages |= {name: "index.md" for name in (".", "README.md", f"{site.nbs}/index.ipynb")}
    pages |= {name: name for name in PAGES if (site.root / name).is_file()}
    pages[site.nbs] = "notebooks.md"
    pages |= {name: name for name in notebooks(site)}
    pages |= {stored(name): stored(name) for name in notebooks(site) if Path(name).stem in site.runs}
    for name, copies in site.runs.items():
        pages |= {path: path for path in copies[1:]}
        pages[copies[0]] = f"{site.nbs}/{name}.ipynb"  # the experiment's own page shows this run
    pages["reports"] = "reports/index.md"
    for folder in run_folders(site.root / "reports"):
        name = folder.relative_to(site.root).as_posix()
        inside = [path.relative_to(site.root).as_posix() for path in folder.rglob("*") if path.is_dir()]
        pages |= dict.fromkeys([name, *inside], f"{name}/index.md")
        texts = [f"{part}/README.md" for part in [name, *inside]]
        pages |= {path: path for path in texts if (site.root / path).is_file()}
    pages[site.package] = "api/index.md"
    for path in modules(site):
        pages[path] = f"api/{api_name(site, path)}.qmd"


def notebooks(
    site: Site,  # the site
) -> list[str]:  # paths in the order of their names, numbered ones first
    "All notebooks but the front page."
    found = [path for path in sorted((site.root / site.nbs).glob("*.ipynb")) if path.stem != "index"]
    return [path.relative_to(site.root).as_posix() for path in found]


def is_library(
    path: str,  # path of a notebook
) -> bool:  # whether it exports a module
    "Library notebooks have numbers; experiments have names."
    return Path(path).name[:1].isdigit()


def modules(
    site: Site,  # the site
) -> list[str]:  # paths of the package's modules
    "All modules of the package that have a page."
    found = [path.relative_to(site.root) for path in sorted((site.root / site.package).rglob("*.py"))]
    return [path.as_posix() for path in found if not any(part.startswith("_") for part in path.parts)]


def api_name(
    site: Site,  # the site
    path: str,  # of a module
) -> str:  # name of its page, as smalldocs chooses it: short, or full if two modules share a short one
    "The name of a module's page."
    stem = Path(path).stem
    twins = [other for other in modules(site) if Path(other).stem == stem]
    return stem if len(twins) == 1 else path.removesuffix(".py").replace("/", ".")


def write_page(
    site: Site,
    page: str,  # path in the stage
    text: str,  # Markdown, with a title and a summary at its top
    source: str,  # path of the file from which it was made
    bases: list[str],  # folders that its links are relative to
    **options: object,  # of smalldocs
) -> None:
    "Write a page of Markdown."
    title, summary, body = split_title(site.links.rewrite(text, source, page, bases))
    site.titles[page] = (title, summary)
    front = {"title": title, "description": summary, **options}
    target = site.stage / page
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"---\n{yaml.safe_dump(front, allow_unicode=True)}---\n\n{body}", encoding="utf-8")


def write_notebook(
    site: Site,
    source: str,  # path of the notebook
    page: str,  # path of its page in the stage
    suffix: str = "",  # what the title gets
    note: str = "",  # Markdown that the page opens with, its links relative to the repository's root
) -> None:
    "Write a notebook as it is to be shown. Its links are relative to nbs/, also where papermill put a copy elsewhere."
    bases = [site.nbs, posixpath.dirname(source), "."]
    rewrite = partial(site.links.rewrite, source=source, page=page, bases=bases)
    title, summary, cells = readable(read_notebook(site.root / source), rewrite)
    title = (title or Path(source).stem) + suffix
    site.titles[page] = (title, summary)
    front = yaml.safe_dump({"title": title, "description": summary}, allow_unicode=True)
    top = [{"cell_type": "raw", "metadata": {}, "source": f"---\n{front}---"}]
    if note:
        top.append(markdown_cell(site.links.rewrite(note, source, page, ["."])))
    language = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    target = site.stage / page
    target.parent.mkdir(parents=True, exist_ok=True)
    shown = {"nbformat": 4, "nbformat_minor": 5, "metadata": language, "cells": top + cells}
    target.write_text(json.dumps(shown), encoding="utf-8")


def module_note(
    site: Site,
    source: str,  # path of a library notebook
) -> str:  # Markdown; empty if it exports nothing
    "Where the module of a notebook is described."
    exported = re.search(r'"#\s*\|\s*default_exp (\S+?)(?:\\n)?"', (site.root / source).read_text(encoding="utf-8"))
    path = f"{site.package}/{exported[1].replace('.', '/')}.py" if exported else ""
    if path not in site.links.pages:
        return ""
    return f"::: {{.page-note}}\nThis notebook is the module [{path[:-3].replace('/', '.')}]({path}).\n:::\n"


def run_note(
    site: Site,
    name: str,  # of the experiment
    path: str,  # of the executed copy
) -> str:  # Markdown
    "Which run a page shows, how it was made, and which other runs there are."
    folder = posixpath.dirname(path)
    told = facts(site.root / folder)
    how = [told[key] for key in ("time", "device") if key in told]
    if "commit" in told:
        how.append(f"commit {told['commit']}")
    changed = [f"{key} = {value!r}" for key, value in settings(read_notebook(site.root / path)).items()]
    lines = [f"This page shows the run [{Path(folder).name}]({folder}){': ' if how else ''}{', '.join(how)}."]
    lines.append(f"[The notebook as it stands now]({stored(f'{site.nbs}/{name}.ipynb')}) may have changed since.")
    if changed:
        lines.append(f"Settings that differ from the notebook's: `{', '.join(changed)}`.")
    others = [f"[{Path(other).parent.name}]({other})" for other in site.runs[name] if other != path]
    if others:
        lines.append(f"Other runs of this notebook: {', '.join(others)}.")
    return "::: {.page-note}\n" + " ".join(lines) + "\n:::\n"


def write_notebooks(site: Site) -> None:
    "Write the pages of all notebooks, and of all executed copies."
    for source in notebooks(site):
        name = Path(source).stem
        if name in site.runs:
            write_runs(site, name)
        else:
            write_notebook(site, source, source, note=module_note(site, source))


def write_runs(
    site: Site,
    name: str,  # of the experiment
) -> None:
    "Write the pages of an experiment: its executed copies, the first in its own place, and the notebook as it stands."
    source = f"{site.nbs}/{name}.ipynb"
    first, *others = site.runs[name]
    write_notebook(site, first, source, note=run_note(site, name, first))
    for path in others:
        write_notebook(site, path, path, suffix=f" ({Path(path).parent.name})", note=run_note(site, name, path))
    note = f"::: {{.page-note}}\nThe notebook as it stands now, not executed. [An executed run]({first}).\n:::\n"
    write_notebook(site, source, stored(source), suffix=" (not executed)", note=note)


def stored(
    source: str,  # path of an experiment
) -> str:  # path of a page in the stage
    "Where the page of an experiment stands that shows the notebook as it is stored."
    return (Path(source).parent / STORED / Path(source).name).as_posix()


def write_texts(site: Site) -> None:
    "Write the front page and the other pages of Markdown."
    write_page(site, "index.md", (site.root / "README.md").read_text(encoding="utf-8"), "README.md", ["."])
    others = [path for path in site.links.pages if path.endswith(".md") and path != "README.md"]
    for path in others:
        write_page(site, path, (site.root / path).read_text(encoding="utf-8"), path, [posixpath.dirname(path) or "."])


def write_reports(site: Site) -> None:
    "Write a page for each run folder, and the list of them."
    rows = []
    for folder in run_folders(site.root / "reports"):
        name = folder.relative_to(site.root).as_posix()
        write_page(site, f"{name}/index.md", run_page(folder), name, [name])
        executed = ", ".join(f"[{path.stem}]({name}/{path.name})" for path in sorted(folder.glob("*.ipynb")))
        rows.append(f"| [{folder.name}]({name}) | {executed} | {facts(folder).get('time', '')} |")
    table = "\n".join(["| folder | executed notebook | time |", "| --- | --- | --- |", *rows])
    text = f"# Reports\n\n> What each run left: settings, figures, numbers.\n\n{table}\n"
    write_page(site, "reports/index.md", text, "reports", ["."])


def write_lists(site: Site) -> None:
    "Write the lists of notebooks and of experiments, with what each is about."
    library = [entry(site, path) for path in notebooks(site) if is_library(path)]
    text = "# Notebooks\n\n> The library, in reading order. Each notebook is one module.\n\n"
    write_page(site, "notebooks.md", text + "\n\n".join(library) + "\n", "docs/build.py", ["."])
    experiments = []
    for path in notebooks(site):
        if is_library(path):
            continue
        runs = [f"[{Path(copy).parent.name}]({copy})" for copy in site.runs.get(Path(path).stem, [])]
        experiments.append(entry(site, path) + (f"\n\n  Runs: {', '.join(runs)}" if runs else ""))
    text = "# Experiments\n\n> Notebooks that papermill runs, shown as they were executed.\n\n"
    write_page(site, "experiments.md", text + "\n\n".join(experiments) + "\n", "docs/build.py", ["."])


def entry(
    site: Site,
    path: str,  # of a notebook
) -> str:  # a line of a list
    "A line about a notebook."
    title, summary = site.titles[path]
    return f"- [{title}]({path})  \n  {summary}" if summary else f"- [{title}]({path})"


def write_api(site: Site) -> None:
    "Write a page for each module, from its signatures, comments and docstrings."
    from smalldocs.api import Settings, build

    rows = []
    for path in build(Settings(site.stage, [site.package.replace("/", ".")], root=site.root)):
        text = path.read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---\n")[1])
        site.titles[f"api/{path.name}"] = (front["title"], front["description"])
        note = notebook_note(site, front["title"])
        note = site.links.rewrite(note, "docs/build.py", f"api/{path.name}", [site.package, "."])
        path.write_text(text.replace("---\n\n", f"code-overflow: wrap\n---\n\n{note}", 1), encoding="utf-8")
        rows.append(f"- [{front['title']}](api/{path.name})  \n  {front['description']}")
    text = "# API\n\n> The modules: what each function takes, returns and raises.\n\n" + "\n\n".join(rows) + "\n"
    site.links.pages |= {page: page for page in site.titles if page.startswith("api/")}
    write_page(site, "api/index.md", text, "docs/build.py", ["."])


def notebook_note(
    site: Site,
    module: str,  # its full name
) -> str:  # Markdown; empty if the module says nothing of a notebook
    "From which notebook a module was exported."
    code = (site.root / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    made = re.search(r"File to edit: (?:\.\./)*(\S+\.ipynb)", code)
    if not made:
        return ""
    return f"::: {{.page-note}}\nExplained, and checked, in the notebook [{Path(made[1]).stem}]({made[1]}).\n:::\n\n"
