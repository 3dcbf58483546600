"Notebooks as a reader wants to see them: without directives and hidden cells, with clean outputs."

import ast
import re
from collections.abc import Callable

DIRECTIVE = re.compile(r"#\s*\|\s*(.*)")
HIDDEN_LINE = re.compile(r"#\s*\|\s*hide_line\s*$")
OPTIONS = {"echo", "output", "include", "label", "code-fold", "code-summary", "fig-cap", "fig-alt", "tbl-cap"}  # stay
PROGRESS = re.compile(r"^.*?\d+%\|.*\|.*$|^\s*\d+it \[.*\]\s*$")
TAGS = {"hide_input": "remove-input", "hide_output": "remove-output"}


def source(
    cell: dict,  # a cell
) -> str:  # its text
    "The text of a cell, which may be stored as a list of lines."
    return "".join(cell["source"])


def tags(
    cell: dict,  # a cell
) -> list[str]:  # its tags
    "The tags of a cell."
    return cell.get("metadata", {}).get("tags", [])


def split_title(
    text: str,  # Markdown
) -> tuple[str, str, str]:  # title, one-line summary, rest; no title: the text is the rest
    "Split the first cell of a notebook as nbdev does: `# title`, `> summary`, `- key: value` lines, and the rest."
    match = re.match(r"\s*# (.+)\n*", text)
    if not match:
        return "", "", text
    title, rest = match[1].strip(), text[match.end() :]
    quote = re.match(r"(?:> ?.*(?:\n|$))+", rest)
    summary = re.sub(r"^> ?", "", quote[0], flags=re.M).strip() if quote else ""
    rest = rest[quote.end() :].lstrip("\n") if quote else rest
    return title, " ".join(summary.split()), re.sub(r"\A(?:- \w+: .*(?:\n|$))+", "", rest).lstrip("\n")


def split_directives(
    code: str,  # source of a code cell
) -> tuple[dict[str, str], str]:  # directives and what follows them; the code
    "Take nbdev's directives (`#| export`) from the top of a cell, and the lines that end in `#| hide_line`."
    found, kept = {}, []
    lines = code.split("\n")
    while lines and (match := DIRECTIVE.match(lines[0])):
        name, _, value = match[1].replace(":", " ", 1).partition(" ")
        found[name] = value.strip()
        line = lines.pop(0)
        if name in OPTIONS:
            kept.append(line)
    kept += [line for line in lines if not HIDDEN_LINE.search(line)]
    return found, "\n".join(kept).strip("\n")


def clean_stream(
    text: str,  # what a cell printed
) -> str:  # what a terminal would have shown at the end, without progress bars
    "Apply carriage returns and drop the frames of progress bars."
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join(line for line in lines if not PROGRESS.match(line))


def clean_outputs(
    outputs: list[dict],  # outputs of a cell
) -> list[dict]:  # one stream for each run of prints; nothing empty
    "Join what was printed in pieces, and clean it."
    joined = []
    for output in outputs:
        output = dict(output)
        if output["output_type"] == "stream":
            output["text"] = "".join(output["text"])
            if joined and joined[-1].get("name") == output["name"]:
                joined[-1]["text"] += output["text"]
                continue
        joined.append(output)
    for output in joined:
        if output["output_type"] == "stream":
            output["text"] = clean_stream(output["text"])
    return [output for output in joined if output.get("text", "shown").strip()]


def clean_code(
    cell: dict,  # a code cell
) -> dict | None:  # the cell to show; None if nothing is left of it
    "A code cell without directives, hidden parts and progress bars."
    found, code = split_directives(source(cell))
    names = {*found, *tags(cell)}
    outputs = clean_outputs(cell.get("outputs", []))
    if "hide" in names or not (code.strip() or outputs):
        return None
    metadata = {"tags": [TAGS[name] for name in TAGS if name in names]}
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "source": code, "outputs": outputs}


def rewrite_output(
    output: dict,  # one output
    rewrite: Callable,  # text → text with other links
) -> dict:  # the same with those links
    "Rewrite the links in an output that is Markdown or HTML."
    data = output.get("data", {})
    texts = {kind: rewrite("".join(data[kind])) for kind in ("text/markdown", "text/html") if kind in data}
    return {**output, "data": {**data, **texts}} if texts else output


def readable(
    notebook: dict,  # a notebook
    rewrite: Callable,  # text → text with other links
) -> tuple[str, str, list[dict]]:  # title, one-line summary, and the cells to show
    "What a reader sees of a notebook."
    title, summary, cells = "", "", []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and "hide" not in tags(cell):
            text = source(cell)
            if not cells and not title:
                title, summary, text = split_title(text)
            if text.strip():
                cells.append(markdown_cell(rewrite(text)))
        if cell["cell_type"] == "code":
            shown = clean_code(cell)
            if not shown:
                continue
            cells.append({**shown, "outputs": [rewrite_output(output, rewrite) for output in shown["outputs"]]})
    return title, summary, cells


def markdown_cell(
    text: str,  # Markdown
) -> dict:  # a cell
    "A cell of prose."
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def values(
    notebook: dict,  # a notebook
    tag: str,  # of the cell
) -> dict:  # names and values that it assigns, if they are literals
    "What the cell of parameters with this tag sets."
    found = {}
    for cell in notebook["cells"]:
        if tag not in tags(cell):
            continue
        for line in ast.parse(source(cell)).body:
            target = line.target if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [None])[0]
            if isinstance(target, ast.Name):
                found[target.id] = literal(line.value)
    return found


def literal(
    node: ast.expr,  # an expression
) -> object:  # its value, or its code if it is no literal
    "The value of a literal."
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def settings(
    notebook: dict,  # an executed notebook
) -> dict:  # the parameters that differ from its defaults, without those that say where files are
    "What a run was told."
    defaults = values(notebook, "parameters")
    given = values(notebook, "injected-parameters")
    return {
        name: value
        for name, value in given.items()
        if name not in ("run", "reports", "resume", "share", "data") and defaults.get(name) != value
    }
