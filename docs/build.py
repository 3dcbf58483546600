"""Build the documentation site from the notebooks, the executed reports and the package: `python docs/build.py`.

Writes `_site/`, which needs neither a server nor a network to be read. Fails with a list if a link leads nowhere, an image
is missing, or a page would load something from the network. smalldocs makes the HTML; what stands here gives it the pages:

- notebooks of `nbs/` as stored; experiments as they were executed, where `reports/` has such a copy;
- a page for every run folder, and one for every module.
"""
import argparse
import configparser
import json
import posixpath
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from links import Links, broken
from notebooks import markdown_cell, readable, settings, split_title
from reports import facts, run_folders, run_page

ASSETS = Path(__file__).parent / "assets"
CDN = re.compile(r'https://cdn\.jsdelivr\.net/npm/katex@[^/"]+/dist/(?:contrib/)?')
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md") # beside README.md, if they are there
WEIGHTS = {"nbs": 1.0, "api": 1.0, "reports": 0.2} # search: a run's page comes after the page of its notebook


@dataclass
class Site:
    "What is known of the pages while they are made."
    root: Path # the repository
    stage: Path # where the pages are collected for smalldocs
    nbs: str # folder of the notebooks
    package: str # folder of the package
    title: str # of the site
    description: str # in one line
    links: Links # where links lead
    titles: dict[str, tuple[str, str]] = field(default_factory=dict) # path of a page → title and summary
    runs: dict[str, list[str]] = field(default_factory=dict) # name of an experiment → its executed copies, the one to show first


def read_notebook(path: Path, # a notebook
                 ) -> dict: # its JSON
    "Read a notebook."
    return json.loads(path.read_text(encoding="utf-8"))


def open_site(root: Path, # the repository
              stage: Path, # an empty folder
             ) -> Site: # with all pages of notebooks and runs planned
    "Find out what there is to show, and where each page will stand."
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(root / "settings.ini", encoding="utf-8")
    told = config["DEFAULT"]
    site = Site(root, stage, told["nbs_path"], told["lib_path"], told["title"], told["description"], Links(root, stage, {}))
    find_runs(site)
    plan(site)
    return site


def find_runs(site: Site) -> None:
    "Find the executed copies of each experiment; first the one whose settings are nearest to the notebook's defaults."
    found = {}
    for folder in run_folders(site.root / "reports"):
        for path in sorted(folder.glob("*.ipynb")):
            if not (site.root / site.nbs / path.name).is_file(): continue
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
    for name, copies in site.runs.items():
        pages |= {path: path for path in copies[1:]}
        pages[copies[0]] = f"{site.nbs}/{name}.ipynb" # the experiment's own page shows this run
    pages["reports"] = "reports/index.md"
    for folder in run_folders(site.root / "reports"):
        name = folder.relative_to(site.root).as_posix()
        inside = [path.relative_to(site.root).as_posix() for path in folder.rglob("*") if path.is_dir()]
        pages |= dict.fromkeys([name, *inside], f"{name}/index.md")
        pages |= {path: path for path in [f"{part}/README.md" for part in [name, *inside]] if (site.root / path).is_file()}
    pages[site.package] = "api/index.md"
    for path in modules(site): pages[path] = f"api/{api_name(site, path)}.qmd"


def notebooks(site: Site, # the site
             ) -> list[str]: # paths in the order of their names, numbered ones first
    "All notebooks but the front page."
    return [path.relative_to(site.root).as_posix() for path in sorted((site.root / site.nbs).glob("*.ipynb")) if path.stem != "index"]


def is_library(path: str, # path of a notebook
              ) -> bool: # whether it exports a module
    "Library notebooks have numbers; experiments have names."
    return Path(path).name[:1].isdigit()


def modules(site: Site, # the site
           ) -> list[str]: # paths of the package's modules
    "All modules of the package that have a page."
    found = [path.relative_to(site.root) for path in sorted((site.root / site.package).rglob("*.py"))]
    return [path.as_posix() for path in found if not any(part.startswith("_") for part in path.parts)]


def api_name(site: Site, # the site
             path: str, # of a module
            ) -> str: # name of its page, as smalldocs chooses it: short, or full if two modules share a short one
    "The name of a module's page."
    stem = Path(path).stem
    twins = [other for other in modules(site) if Path(other).stem == stem]
    return stem if len(twins) == 1 else path.removesuffix(".py").replace("/", ".")


def write_page(site: Site,
               page: str, # path in the stage
               text: str, # Markdown, with a title and a summary at its top
               source: str, # path of the file from which it was made
               bases: list[str], # folders that its links are relative to
               **options: object, # of smalldocs
              ) -> None:
    "Write a page of Markdown."
    title, summary, body = split_title(site.links.rewrite(text, source, page, bases))
    site.titles[page] = (title, summary)
    front = {"title": title, "description": summary, **options}
    target = site.stage / page
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"---\n{yaml.safe_dump(front, allow_unicode=True)}---\n\n{body}", encoding="utf-8")


def write_notebook(site: Site,
                   source: str, # path of the notebook
                   page: str, # path of its page in the stage
                   suffix: str = "", # what the title gets
                   note: str = "", # Markdown that the page opens with, its links relative to the repository's root
                  ) -> None:
    "Write a notebook as it is to be shown. Its links are relative to nbs/, also where papermill put a copy elsewhere."
    bases = [site.nbs, posixpath.dirname(source), "."]
    title, summary, cells = readable(read_notebook(site.root / source), lambda text: site.links.rewrite(text, source, page, bases))
    title = (title or Path(source).stem) + suffix
    site.titles[page] = (title, summary)
    front = yaml.safe_dump({"title": title, "description": summary}, allow_unicode=True)
    top = [{"cell_type": "raw", "metadata": {}, "source": f"---\n{front}---"}]
    if note: top.append(markdown_cell(site.links.rewrite(note, source, page, ["."])))
    language = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    target = site.stage / page
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": language, "cells": top + cells}), encoding="utf-8")


def module_note(site: Site,
                source: str, # path of a library notebook
               ) -> str: # Markdown; empty if it exports nothing
    "Where the module of a notebook is described."
    exported = re.search(r'"#\s*\|\s*default_exp (\S+?)(?:\\n)?"', (site.root / source).read_text(encoding="utf-8"))
    path = f"{site.package}/{exported[1].replace('.', '/')}.py" if exported else ""
    if path not in site.links.pages: return ""
    return f"::: {{.page-note}}\nThis notebook is the module [{path[:-3].replace('/', '.')}]({path}).\n:::\n"


def run_note(site: Site,
             name: str, # of the experiment
             path: str, # of the executed copy
            ) -> str: # Markdown
    "Which run a page shows, how it was made, and which other runs there are."
    folder = posixpath.dirname(path)
    told = facts(site.root / folder)
    how = [told[key] for key in ("time", "device") if key in told] + [f"commit {told['commit']}" for key in ["commit"] if key in told]
    changed = [f"{key} = {value!r}" for key, value in settings(read_notebook(site.root / path)).items()]
    lines = [f"This page shows the run [{Path(folder).name}]({folder}){': ' if how else ''}{', '.join(how)}."]
    if changed: lines.append(f"Settings that differ from the notebook's: `{', '.join(changed)}`.")
    others = [f"[{Path(other).parent.name}]({other})" for other in site.runs[name] if other != path]
    if others: lines.append(f"Other runs of this notebook: {', '.join(others)}.")
    return "::: {.page-note}\n" + " ".join(lines) + "\n:::\n"


def write_notebooks(site: Site) -> None:
    "Write the pages of all notebooks, and of all executed copies."
    for source in notebooks(site):
        name = Path(source).stem
        if name in site.runs: write_runs(site, name)
        else: write_notebook(site, source, source, note=module_note(site, source))


def write_runs(site: Site,
               name: str, # of the experiment
              ) -> None:
    "Write the pages of an experiment's executed copies; the first stands for the experiment."
    first, *others = site.runs[name]
    write_notebook(site, first, f"{site.nbs}/{name}.ipynb", note=run_note(site, name, first))
    for path in others:
        write_notebook(site, path, path, suffix=f": {Path(path).parent.name}", note=run_note(site, name, path))


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
    write_page(site, "notebooks.md", text + "\n".join(library) + "\n", "docs/build.py", ["."])
    experiments = []
    for path in notebooks(site):
        if is_library(path): continue
        others = [f"  - run [{Path(copy).parent.name}]({copy})" for copy in site.runs.get(Path(path).stem, [])]
        experiments += [entry(site, path), *others]
    text = "# Experiments\n\n> Notebooks that papermill runs, shown as they were executed.\n\n"
    write_page(site, "experiments.md", text + "\n".join(experiments) + "\n", "docs/build.py", ["."])


def entry(site: Site,
          path: str, # of a notebook
         ) -> str: # a line of a list
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
        path.write_text(text.replace("---\n\n", "code-overflow: wrap\n---\n\n", 1), encoding="utf-8")
        rows.append(f"- [{front['title']}](api/{path.name})  \n  {front['description']}")
    text = "# API\n\n> The modules: what each function takes, returns and raises.\n\n" + "\n".join(rows) + "\n"
    site.links.pages |= {page: page for page in site.titles if page.startswith("api/")}
    write_page(site, "api/index.md", text, "docs/build.py", ["."])


def sidebars(site: Site, # the site
            ) -> list[dict]: # of smalldocs
    "What stands beside the pages: the notebooks, the experiments with their runs, the folders, the modules."
    library = [{"text": f"{Path(path).stem.split('_')[0]} {site.titles[path][0]}", "href": path} for path in notebooks(site) if is_library(path)]
    experiments = []
    for path in notebooks(site):
        if is_library(path): continue
        link = {"text": site.titles[path][0], "href": path}
        others = [{"text": Path(copy).parent.name, "href": copy} for copy in site.runs.get(Path(path).stem, [])[1:]]
        experiments.append({"section": link["text"], "href": path, "contents": others} if others else link)
    folders = [{"text": Path(page).parent.name, "href": page} for page in site.titles if re.fullmatch(r"reports/[^/]+/index\.md", page)]
    api = [{"text": title.partition(".")[2] or title, "href": page} for page, (title, _) in site.titles.items()
           if page.startswith("api/") and page != "api/index.md"]
    texts = [{"text": site.titles[page][0], "href": page} for page in PAGES if page in site.titles]
    return [
        {"id": "notebooks", "contents": [{"text": "Front page", "href": "index.md"}, {"section": "Notebooks", "href": "notebooks.md", "contents": library}, *texts]},
        {"id": "experiments", "contents": [{"section": "Experiments", "href": "experiments.md", "contents": experiments}], "collapse-level": 1},
        {"id": "reports", "contents": [{"section": "Reports", "href": "reports/index.md", "contents": folders}]},
        {"id": "api", "contents": [{"section": "API", "href": "api/index.md", "contents": api}]},
    ]


def configure(site: Site,
              out: Path, # folder of the finished site
             ) -> None:
    "Write the options of smalldocs."
    bar = {"Notebooks": "notebooks.md", "Experiments": "experiments.md", "Reports": "reports/index.md", "API": "api/index.md"}
    website = {
        "title": site.title,
        "description": site.description,
        "navbar": {"left": [{"text": text, "href": page} for text, page in bar.items()]},
        "sidebar": sidebars(site),
        "page-navigation": True,
        "search": {"limit": 30},
    }
    project = {"output-dir": str(out), "render": ["**"]} # without a list smalldocs leaves README.md out
    options = {"project": project, "website": website, "theme": "cosmo", "toc": True, "toc-depth": 3,
               "css": "site.css", "linkify": True}
    shutil.copyfile(ASSETS / "site.css", site.stage / "site.css")
    (site.stage / "_smalldocs.yml").write_text(yaml.safe_dump(options, allow_unicode=True), encoding="utf-8")


def finish(site: Site,
           out: Path, # folder of the finished site
          ) -> None:
    "Let the pages find formulas' fonts and the search beside them instead of on the network."
    libs = out / "site_libs"
    shutil.copytree(ASSETS / "katex", libs / "katex")
    shutil.copyfile(ASSETS / "search.js", libs / "search.js")
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        up = "../" * (len(path.relative_to(out).parts) - 1)
        text = CDN.sub(f"{up}site_libs/katex/", text).replace("site_libs/fuse/fuse.min.js", "site_libs/search.js")
        path.write_text(text, encoding="utf-8")
    entries = json.loads((out / "search.json").read_text(encoding="utf-8"))
    for item in entries: item["weight"] = WEIGHTS.get(item["href"].partition("/")[0], 0.7)
    index = json.dumps(entries, ensure_ascii=False).replace("\u2028", " ").replace("\u2029", " ")
    (libs / "search-index.js").write_text(f"window.searchIndex = {index};\n", encoding="utf-8")
    (out / "search.json").unlink()
    shutil.rmtree(libs / "fuse")
    (out / ".nojekyll").touch()


def build(root: Path, # the repository
          out: Path, # folder of the finished site; it is emptied
         ) -> list[str]: # one line for each thing that is wrong; empty if all is well
    "Build the site of a repository."
    from smalldocs.site import build as render
    sys.path.insert(0, str(root))
    with tempfile.TemporaryDirectory() as stage:
        site = open_site(root, Path(stage))
        write_texts(site)
        write_notebooks(site)
        write_reports(site)
        write_lists(site)
        write_api(site)
        if site.links.missing: return site.links.missing
        configure(site, out)
        made = render(stage, quiet=True)
        finish(site, out)
    return [*made.warnings, *broken(out)]


def main() -> int: # 0 if all is well
    "Build the site of this repository."
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the repository")
    parser.add_argument("--out", type=Path, default=None, help="folder of the site, which is emptied; default: _site in the repository")
    told = parser.parse_args()
    root = told.root.resolve()
    out = (told.out or root / "_site").resolve()
    problems = build(root, out)
    for problem in problems: print(problem, file=sys.stderr)
    if problems: print(f"{len(problems)} problems: the site is not fit to be published", file=sys.stderr)
    else: print(f"{len(list(out.rglob('*.html')))} pages in {out}")
    return 1 if problems else 0


if __name__ == "__main__": sys.exit(main())
