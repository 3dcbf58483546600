"""Build the documentation site from the notebooks, the executed reports and the package: `python docs/build.py`.

Writes `_site/`, which needs neither a server nor a network to be read. Fails with a list if a link leads nowhere, an
image is missing, or a page would load something from the network. smalldocs makes the HTML; `pages.py` gives it:

- notebooks of `nbs/` as stored; experiments as they were executed, where `reports/` has such a copy;
- a page for every run folder, and one for every module.

`docs/assets/katex/` is KaTeX 0.16.11 (`npm pack katex@0.16.11`): script, style with its woff2 fonts alone, and licence.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from links import broken
from pages import (
    PAGES,
    STORED,
    Site,
    is_library,
    notebooks,
    open_site,
    stored,
    write_api,
    write_lists,
    write_notebooks,
    write_reports,
    write_texts,
)

ASSETS = Path(__file__).parent / "assets"
CDN = re.compile(r"<(?:link|script)[^>]*cdn\.jsdelivr\.net/npm/katex[^>]*>(?:</script>)?")
KATEX = """<link rel="stylesheet" href="{0}katex/katex.min.css"><script src="{0}katex/katex.min.js" defer></script>
<script src="{0}katex/auto-render.min.js" defer></script>
"""
SCRIPTS = '<meta name="smalldocs:offset"'  # the formulas' scripts go before smalldocs' own, which calls them
HEADING = re.compile(r'<(h\d)[^>]*data-anchor-id="([^"]+)"[^>]*>(.*?)</\1>', re.S)


def sidebars(
    site: Site,  # the site
) -> list[dict]:  # of smalldocs
    "What stands beside the pages: the notebooks, the experiments with their runs, the folders, the modules."
    numbered = [path for path in notebooks(site) if is_library(path)]
    library = [{"text": f"{Path(path).stem.split('_')[0]} {site.titles[path][0]}", "href": path} for path in numbered]
    experiments = []
    for path in notebooks(site):
        if is_library(path):
            continue
        title = site.titles[path][0]
        others = [{"text": Path(copy).parent.name, "href": copy} for copy in site.runs.get(Path(path).stem, [])[1:]]
        if stored(path) in site.titles:
            others.append({"text": "not executed", "href": stored(path)})
        section = {"section": title, "contents": others} if others else {"text": title}
        experiments.append({**section, "href": path})
    runs = [page for page in site.titles if re.fullmatch(r"reports/[^/]+/index\.md", page)]
    folders = [{"text": Path(page).parent.name, "href": page} for page in runs]
    api = [
        {"text": title.partition(".")[2] or title, "href": page}
        for page, (title, _) in site.titles.items()
        if page.startswith("api/") and page != "api/index.md"
    ]
    texts = [{"text": site.titles[page][0], "href": page} for page in PAGES if page in site.titles]
    front = {"text": "Front page", "href": "index.md"}
    first = {"section": "Notebooks", "href": "notebooks.md", "contents": library}
    second = {"section": "Experiments", "href": "experiments.md", "contents": experiments}
    third = {"section": "Reports", "href": "reports/index.md", "contents": folders}
    fourth = {"section": "API", "href": "api/index.md", "contents": api}
    return [
        {"id": "notebooks", "contents": [front, first, *texts]},
        {"id": "experiments", "contents": [second], "collapse-level": 1},
        {"id": "reports", "contents": [third]},
        {"id": "api", "contents": [fourth]},
    ]


def configure(
    site: Site,
    out: Path,  # folder of the finished site
) -> None:
    "Write the options of smalldocs."
    bar = {
        "Notebooks": "notebooks.md",
        "Experiments": "experiments.md",
        "Reports": "reports/index.md",
        "API": "api/index.md",
    }
    website = {
        "title": site.title,
        "description": site.description,
        "navbar": {"left": [{"text": text, "href": page} for text, page in bar.items()]},
        "sidebar": sidebars(site),
        "page-navigation": True,
        "search": {"limit": 30},
    }
    project = {"output-dir": str(out), "render": ["**"]}  # without a list smalldocs leaves README.md out
    options = {
        "project": project,
        "website": website,
        "theme": "bootstrap",  # the one theme that loads no fonts from the network
        "css": "site.css",
        "toc": True,
        "toc-depth": 3,
        "linkify": True,  # names in backticks lead to their entry in the API
    }
    shutil.copyfile(ASSETS / "site.css", site.stage / "site.css")
    (site.stage / "_smalldocs.yml").write_text(yaml.safe_dump(options, allow_unicode=True), encoding="utf-8")


def finish(
    site: Site,
    out: Path,  # folder of the finished site
) -> None:
    "Let the pages find formulas' fonts and the search beside them instead of on the network."
    libs = out / "site_libs"
    shutil.copytree(ASSETS / "katex", libs / "katex")
    shutil.copyfile(ASSETS / "search.js", libs / "search.js")
    for path in out.rglob("*.html"):
        up = "../" * (len(path.relative_to(out).parts) - 1)
        text = with_formulas(path.read_text(encoding="utf-8"), f"{up}site_libs/")
        path.write_text(text.replace("site_libs/fuse/fuse.min.js", "site_libs/search.js"), encoding="utf-8")
    entries = json.loads((out / "search.json").read_text(encoding="utf-8"))
    for item in entries:
        item["weight"] = weight(item["href"])
    index = json.dumps(entries, ensure_ascii=False).replace("\u2028", " ").replace("\u2029", " ")
    (libs / "search-index.js").write_text(f"window.searchIndex = {index};\n", encoding="utf-8")
    (out / "search.json").unlink()
    shutil.rmtree(libs / "fuse")
    (out / ".nojekyll").touch()


def with_formulas(
    text: str,  # HTML of a page
    libs: str,  # where the site's scripts are, as seen from the page
) -> str:  # the HTML; its table of contents has the headings' formulas too
    "Draw the formulas of a page without a network."
    text = CDN.sub("", text)
    if 'class="math' not in text:
        return text
    for _, anchor, heading in HEADING.findall(text):
        if 'class="math' not in heading:
            continue
        entry = re.compile(rf'(<a href="#{re.escape(anchor)}" id="toc-[^>]*>).*?(</a>)', re.S)
        text = entry.sub(lambda match: match[1] + heading + match[2], text, count=1)
    return text.replace(SCRIPTS, KATEX.format(libs) + SCRIPTS, 1)


def weight(
    page: str,  # its path in the site
) -> float:  # a factor on what the search finds in it
    "The library comes first in a search, and the many runs of the experiments last."
    if page.startswith("reports/") or f"/{STORED}/" in page:
        return 0.2
    return 1.0 if is_library(page) or page.startswith("api/") else 0.5


def build(
    root: Path,  # the repository
    out: Path,  # folder of the finished site; it is emptied
) -> list[str]:  # one line for each thing that is wrong; empty if all is well
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
        if site.links.missing:
            return site.links.missing
        configure(site, out)
        made = render(stage, quiet=True)
        finish(site, out)
    return [*made.warnings, *broken(out)]


def main() -> int:  # 0 if all is well
    "Build the site of this repository."
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the repository")
    parser.add_argument("--out", type=Path, help="folder of the site, which is emptied; default: _site")
    told = parser.parse_args()
    root = told.root.resolve()
    out = (told.out or root / "_site").resolve()
    problems = build(root, out)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems)} problems: the site is not fit to be published", file=sys.stderr)
    else:
        print(f"{len(list(out.rglob('*.html')))} pages in {out}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
