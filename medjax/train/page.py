"""The HTML shell of a report: one page, its style, no other file."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Section(NamedTuple):
  """A section of the page: a title and the HTML under it."""

  title: str
  body: str


STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5d6878; --paper: #ffffff;
  --ground: #f4f5f7; --line: #dfe3e9; --accent: #2563a8; --stripe: #f8f9fb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ee; --soft: #98a3b3; --paper: #1a1f28;
  --ground: #12161d; --line: #2d3543; --accent: #7db4f0; --stripe: #1f2530; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 4rem; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.6;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3.2rem; padding-bottom: 1.4rem; }
h1 { font-size: clamp(1.7rem, 4vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em;
  margin: 0 0 .8rem; text-wrap: balance; }
.lead { font-size: 1.13rem; color: var(--soft); max-width: 46rem; margin: 0; text-wrap: pretty; }
nav { position: sticky; top: 0; z-index: 1; background: var(--ground);
  border-bottom: 1px solid var(--line); }
nav ol { max-width: 68rem; margin: 0 auto; padding: .55rem 1.5rem; list-style: none; display: flex;
  gap: 1.4rem; overflow-x: auto; font-size: .9rem; white-space: nowrap; }
nav a { color: var(--soft); text-decoration: none; padding: .2rem 0; }
nav a:hover, nav a:focus { color: var(--accent); box-shadow: 0 2px 0 var(--accent); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.5rem 1.8rem 1.7rem; margin: 1.5rem 0; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; line-height: 1.25; margin: 0 0 .7rem; }
p { max-width: 46rem; margin: .6rem 0; text-wrap: pretty; }
section > ul:not(.legend) { max-width: 56rem; margin: .6rem 0; padding-left: 1.2rem; }
section > ul:not(.legend) > li + li { margin-top: .35rem; }
figure { margin: 1.3rem 0 0; }
figcaption { color: var(--soft); font-size: .88rem; line-height: 1.45; text-align: left; }
figure > figcaption { margin-top: .6rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .94rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem 1rem .42rem .6rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
th { font-weight: 600; color: var(--soft); font-size: .84rem; border-bottom: 2px solid var(--line);
  vertical-align: bottom; }
tbody tr:nth-child(even) { background: var(--stripe); }
.number { text-align: right; white-space: nowrap; padding: .42rem .6rem .42rem 1.4rem; }
.panels { display: grid; gap: 1rem; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
.panels figure { margin: 0; }
.panels figcaption { margin-top: .35rem; }
.panels img { width: 100%; display: block; border-radius: 6px; background: #000;
  image-rendering: pixelated; }
@media (max-width: 40rem) { .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  section { padding: 1.1rem 1rem 1.3rem; } header, main, footer { padding-inline: .9rem; }
  nav ol { padding-inline: .9rem; } }
.curves svg { width: 100%; max-width: 48rem; height: auto; display: block; }
.curves svg text { font-family: inherit !important; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; padding: 0;
  margin: 0 0 .8rem; font-size: .88rem; color: var(--soft); }
.legend i { display: inline-block; width: .85em; height: .85em; border-radius: 3px;
  margin-right: .45em; vertical-align: -.06em; }
.note { border-left: 3px solid var(--accent); padding: .15rem 0 .15rem 1rem; margin: 1.1rem 0;
  color: var(--soft); }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 2.5rem; }
@media print { nav { display: none; } section { break-inside: avoid; border: 0; padding: 0; } }
"""


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
  """The whole page; titles and lead are escaped here, bodies are HTML already."""
  links = "".join(
    f'<li><a href="#section-{n}">{text(section.title)}</a></li>'
    for n, section in enumerate(sections, 1)
    if section.title
  )
  nav = f'<nav aria-label="Contents"><ol>{links}</ol></nav>' if links else ""
  bodies = "\n".join(
    f'<section id="section-{n}">'
    + (f"<h2>{text(section.title)}</h2>" if section.title else "")
    + f"\n{section.body}\n</section>"
    for n, section in enumerate(sections, 1)
  )
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{text(title)}</h1><p class="lead">{text(lead)}</p></header>
{nav}
<main>
{bodies}
</main>
<footer>Written by medjax.</footer>
</body>
</html>
"""


def text(value: object) -> str:
  """`value` as text that HTML shows as it is."""
  return html.escape(str(value))
