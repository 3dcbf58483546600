"Links of the pages: where each one leads inside the site, and the check that none leads nowhere."

import posixpath
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

# Code and formulas hold brackets that are no links.
FENCED = r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?^ {0,3}(?P=fence)[`~]*[ \t]*$"
NO_PROSE = re.compile(rf"{FENCED}|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$", re.M | re.S)
LINK = re.compile(r"""(\]\(|\b(?:src|href)=["'])([^)\s"'<>]+)""")
NETWORK = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^)"'\s]+)""")  # in style sheets
ELSEWHERE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//|#|\?")


@dataclass
class Links:
    "The files of a repository that have a page, and the links that were found to lead nowhere."

    root: Path  # the repository
    stage: Path  # the folder from which the site is built; it has the repository's layout
    pages: dict[str, str]  # path in the repository → path of its page in the stage
    missing: list[str] = field(default_factory=list)  # one line for each link that leads nowhere

    def follow(
        self,
        link: str,  # as written
        source: str,  # path of the file in which it is written
        page: str,  # path of that file's page in the stage
        bases: list[str],  # folders that it may be relative to; the first with such a file counts
    ) -> str:  # the link to write on the page
        "A link made relative to its page. The file is copied into the stage if it has no page."
        path, tail = re.fullmatch(r"([^#?]*)(.*)", link, re.S).groups()
        for base in bases:
            target = posixpath.normpath(posixpath.join(base, unquote(path)))
            found = self.pages.get(target) or self.copy(target) or self.listing(target)
            if found:
                if target in self.pages:
                    tail = tail.lower()  # headings of the site have anchors in lower case, those of a notebook have not
                return posixpath.relpath(found, posixpath.dirname(page) or ".") + tail
        self.missing.append(f"{source}: {link} does not exist")
        return link

    def copy(
        self,
        target: str,  # path in the repository
    ) -> str | None:  # the same path, or None if there is no such file
        "Copy a file from the repository into the stage."
        if target.startswith("../") or not (self.root / target).is_file():
            return None
        copied = self.stage / target
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.root / target, copied)
        return target

    def listing(
        self,
        target: str,  # path in the repository
    ) -> str | None:  # path of a page; None if there is no such folder
        "A page that lists the files of a folder, for a folder that has no page of its own."
        folder = self.root / target
        if target.startswith("../") or not folder.is_dir():
            return None
        page = f"folders/{target.strip('./').replace('/', '-')}.md"
        self.pages[target] = page
        names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
        lines = [f"- [{name}](../{self.copy(posixpath.join(target, name))})" for name in names]
        (self.stage / "folders").mkdir(exist_ok=True)
        (self.stage / page).write_text("\n".join([f"# {target}", "", *lines, ""]), encoding="utf-8")
        return page

    def rewrite(
        self,
        text: str,  # Markdown or HTML
        source: str,
        page: str,
        bases: list[str],  # see `follow`
    ) -> str:  # the same with all local links made to fit the page
        "Make the links of a text fit its page; links in code and brackets in formulas are left alone."

        def fit(match):
            start, link = match.groups()
            return match[0] if ELSEWHERE.match(link) else start + self.follow(link, source, page, bases)

        parts, end = [], 0
        for quiet in NO_PROSE.finditer(text):
            parts += [LINK.sub(fit, text[end : quiet.start()]), quiet[0]]
            end = quiet.end()
        return "".join(parts) + LINK.sub(fit, text[end:])


class Page(HTMLParser):
    "The anchors and links of one HTML page."

    LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}

    def __init__(self, html: str):  # the page
        super().__init__()
        self.anchors = set()
        self.links = []
        self.loaded = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        self.anchors |= {attrs[name] for name in ("id", "name") if name in attrs}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if self.LOADED.get(tag) in attrs:
            self.loaded.append(attrs[self.LOADED[tag]])


def broken(
    site: Path,  # folder of a built site
) -> list[str]:  # one line for each missing file or heading, and for what is loaded from afar
    "What is wrong with the links, images, scripts and styles of a site."
    files = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}
    pages = {name: Page(path.read_text(encoding="utf-8")) for name, path in files.items()}
    found = []
    for name, page in pages.items():
        for link in dict.fromkeys(page.links + page.loaded):
            problem = trouble(link, name, pages, site, link in page.loaded)
            if problem:
                found.append(f"{name}: {problem}")
    for path in sorted(site.rglob("*.css")):
        remote = NETWORK.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site).as_posix()}: {link} is loaded from the network" for link in remote]
    return found


def trouble(
    link: str,  # as written in the HTML
    name: str,  # path of its page in the site
    pages: dict[str, Page],  # all pages by their paths
    site: Path,  # folder of the site
    loaded: bool,  # whether the page needs it to be shown
) -> str | None:  # what is wrong with it
    "What is wrong with one link of a page, if anything is."
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", link):
        return f"{link} is loaded from the network" if loaded and not link.startswith("data:") else None
    path, _, anchor = unquote(link).partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path.partition("?")[0])) if path else name
    if not (site / target).is_file():
        return f"{link} does not exist"
    if anchor and target in pages and anchor not in pages[target].anchors:
        return f"{link} has no such heading"
    return None
