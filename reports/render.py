"""One Table -> terminal, Markdown, LaTeX (booktabs), CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
import textwrap
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from .table import Block, Cell, Column, Row, Table

HEAD_WIDTH = 13

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "→0": r"$\to 0$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_TEX_PATTERN = re.compile("|".join(re.escape(symbol) for symbol in sorted(_TEX, key=len, reverse=True)))
_MD = re.compile(r"([\\`*_\[\]<>|])")


def tex_escape(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return _TEX_PATTERN.sub(lambda match: _TEX[match.group()], text)


def md_escape(text: str) -> str:
    """Return text that Markdown prints as it stands, on one line."""
    return _MD.sub(r"\\\1", text).replace("\n", " ")


def terminal(table: Table) -> Group:
    """Return a table for rich; best is bold, second underlined, quoted is italic."""
    notes = "\n".join([table.caption, *(f"({mark}) {text}" for mark, text in table.footnotes.items())])
    return Group(Text(table.title, style="bold"), _Parts(table), Text(notes, style="dim"))


class _Parts:
    """The grid of a table, in as many parts below each other as the terminal's width asks for."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left = self._table.columns
        while left:
            count = len(left)
            while count > 1 and _width(_grid(self._table, left[:count]), console, options) > options.max_width:
                count -= 1
            yield _grid(self._table, left[:count])
            left = left[count:]


def _width(grid: RichTable, console: Console, options: ConsoleOptions) -> int:
    return Measurement.get(console, options.update(width=10_000), grid).maximum


def _grid(table: Table, columns: Sequence[Column]) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(table.row_head, no_wrap=True)
    for column in columns:
        grid.add_column(Text(_folded(column.head) + _marks(column.marks)), justify="right", no_wrap=True)
    if table.has_counts:
        grid.add_column("clips", justify="right", no_wrap=True)
    for number, block in enumerate(table.blocks):
        if len(table.blocks) > 1:
            grid.add_row(Text(block.title, style="italic dim"))
        for row in block.rows:
            cells = [_terminal_cell(row.cells.get(column.id)) for column in columns]
            grid.add_row(Text(row.label + _marks(row.marks)), *cells, *([row.coverage] if table.has_counts else []))
        if number < len(table.blocks) - 1:
            grid.add_section()
    return grid


def markdown(table: Table) -> str:
    """Return GitHub-flavoured Markdown."""
    heads = [table.row_head, *(md_escape(c.head) + _sup(c.marks) for c in table.columns)]
    lines = [f"**{md_escape(table.title)}**", ""]
    if table.has_counts:
        heads.append("clips")
    lines += ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for block in table.blocks:
        if len(table.blocks) > 1:
            lines.append(f"| *{md_escape(block.title)}* |" + "  |" * (len(heads) - 1))
        for row in block.rows:
            cells = [md_escape(row.label) + _sup(row.marks), *(_md_cell(row.cells.get(c.id)) for c in table.columns)]
            lines.append("| " + " | ".join([*cells, *([md_escape(row.coverage)] if table.has_counts else [])]) + " |")
    lines += ["", md_escape(table.caption)]
    lines += [f"<br><sup>{mark}</sup> {md_escape(text)}" for mark, text in table.footnotes.items()]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    r"""Return a booktabs table; needs `\usepackage{booktabs}`."""
    width = 1 + len(table.columns) + table.has_counts
    heads = [tex_escape(table.row_head), *(tex_escape(c.head) + _tex_marks(c.marks) for c in table.columns)]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex_escape(table.title)}. {tex_escape(table.caption)}}}"]
    lines += [rf"\label{{tab:{re.sub(r'[^a-z0-9]+', '-', table.name.lower())}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule"]
    lines += [" & ".join(heads + (["clips"] if table.has_counts else [])) + r" \\"]
    for block in table.blocks:
        lines.append(r"\midrule")
        if len(table.blocks) > 1:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{tex_escape(block.title)}}}}} \\")
        for row in block.rows:
            cells = [
                tex_escape(row.label) + _tex_marks(row.marks),
                *(_tex_cell(row.cells.get(c.id)) for c in table.columns),
            ]
            lines.append(" & ".join(cells + ([tex_escape(row.coverage)] if table.has_counts else [])) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [
        rf"\\ \footnotesize $^{{{tex_escape(mark)}}}$ {tex_escape(text)}" for mark, text in table.footnotes.items()
    ]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def comma_separated(table: Table) -> str:
    """Return CSV, one line per system and column: stored values at full precision, unscaled."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["table", "block", "system", "output", "label", "value", "low", "high", "clips_used", "clips_expected",
         "rank", "printed", "quoted", "unit", "notes"]
    )  # fmt: skip
    for block in table.blocks:
        for row in block.rows:
            for column in table.columns:
                writer.writerow(_csv_line(table, block, row, column))
    return file.getvalue()


def page_table(table: Table) -> str:
    """Return an HTML table; heads are sortable by the page's script, cells carry their values."""
    heads = [f'<th scope="col" data-sort="text">{_h(table.row_head)}</th>']
    for column in table.columns:
        title = _h(" ".join(filter(None, [column.description, f"Unit: {column.unit}." if column.unit != "1" else ""])))
        heads.append(
            f'<th scope="col" data-sort="number" title="{title}">{_h(column.head)}{_html_marks(column.marks)}</th>'
        )
    if table.has_counts:
        heads.append('<th scope="col" data-sort="text">clips</th>')
    body = "".join(_html_block(table, block, len(heads)) for block in table.blocks)
    notes = "".join(f"<li><sup>{_h(mark)}</sup> {_h(text)}</li>" for mark, text in table.footnotes.items())
    return (
        f'<figure class="table" id="{_h(table.name)}">'
        f"<figcaption><b>{_h(table.title)}</b> {_h(table.caption)}</figcaption>"
        f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead>{body}</table></div>'
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}</figure>"
    )


FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "md": (".md", markdown),
    "tex": (".tex", latex),
    "csv": (".csv", comma_separated),
    "html": (".html", page_table),
}


def _html_block(table: Table, block: Block, width: int) -> str:
    rows = []
    if len(table.blocks) > 1:
        rows.append(f'<tr class="block"><th scope="rowgroup" colspan="{width}">{_h(block.title)}</th></tr>')
    for row in block.rows:
        cells = [f'<th scope="row" title="{_h(row.description)}">{_h(row.label)}{_html_marks(row.marks)}</th>']
        cells += [_html_cell(row.cells.get(column.id)) for column in table.columns]
        if table.has_counts:
            cells.append(f"<td>{_h(row.coverage)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<tbody>{''.join(rows)}</tbody>"


def _html_cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td>–</td>"
    classes = " ".join(filter(None, [cell.rank or "", "quoted" if cell.quoted else ""]))
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    title = f' title="{cell.num_used} of {cell.num_expected} clips"' if cell.num_expected else ""
    return f'<td class="{classes}"{value}{title}>{_h(cell.text)}{_html_marks(cell.marks)}</td>'


def _csv_line(table: Table, block: Block, row: Row, column: Column) -> list[object]:
    cell = row.cells.get(column.id)
    if cell is None:
        return [table.name, block.title, row.label, column.id, column.label, *[""] * 9, row.reason]
    texts = [table.footnotes[mark] for mark in (*column.marks, *row.marks, *cell.marks) if mark in table.footnotes]
    notes = " ".join([*texts, *([row.reason] if row.reason and not cell.quoted else [])])
    return [
        table.name, block.title, row.label, column.id, column.label,
        _full(cell.value), _full(cell.low), _full(cell.high), cell.num_used or "", cell.num_expected or "",
        cell.rank or "", cell.text, "yes" if cell.quoted else "no", column.unit, notes,
    ]  # fmt: skip


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)


def _terminal_cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–")
    style = {"best": "bold", "second": "underline", None: "italic" if cell.quoted else ""}[cell.rank]
    return Text.assemble((cell.text, style), (_marks(cell.marks), "dim"))


def _md_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = md_escape(cell.text)
    shown = {"best": f"**{text}**", "second": f"<u>{text}</u>", None: f"*{text}*" if cell.quoted else text}[cell.rank]
    return shown + _sup(cell.marks)


def _tex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    text = tex_escape(cell.text)
    shown = {
        "best": rf"\textbf{{{text}}}",
        "second": rf"\underline{{{text}}}",
        None: rf"\emph{{{text}}}" if cell.quoted else text,
    }[cell.rank]
    return shown + _tex_marks(cell.marks)


def _folded(head: str) -> str:
    return textwrap.fill(head, HEAD_WIDTH, break_long_words=False)


def _marks(marks: tuple[str, ...]) -> str:
    return f" ({','.join(marks)})" if marks else ""


def _sup(marks: tuple[str, ...]) -> str:
    return f"<sup>{','.join(marks)}</sup>" if marks else ""


def _tex_marks(marks: tuple[str, ...]) -> str:
    return rf"$^{{{tex_escape(','.join(marks))}}}$" if marks else ""


def _html_marks(marks: tuple[str, ...]) -> str:
    return f"<sup>{_h(','.join(marks))}</sup>" if marks else ""


def _h(text: str) -> str:
    return html.escape(text, quote=True)
