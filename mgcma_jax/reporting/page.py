"""A page as Markdown, as self-contained HTML, and its tables as CSV."""

import base64
import re
from pathlib import Path

import markdown
import pandas as pd

LOOKS = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80em; margin: 2em auto;
  padding: 0 1em; color: #111; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; display: block;
  overflow-x: auto; }
th, td { border-bottom: 1px solid #bbb; padding: 0.25em 0.7em;
  text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td:nth-child(2) { text-align: left; }
img { max-width: 100%; }
"""
SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{looks}</style>
</head>
<body>
{body}
</body>
</html>
"""
IMAGE = re.compile(r'src="([^"]+)"')


class Page:
  """Sections one after the other.

  Attributes:
    title: of the page.
    folder: where its files are written.
  """

  def __init__(self, title: str, folder: Path):
    self.title, self.folder = title, folder
    folder.mkdir(parents=True, exist_ok=True)
    self._parts = [f'# {title}']

  def text(self, *paragraphs: str) -> None:
    """Markdown."""
    self._parts += paragraphs

  def heading(self, text: str) -> None:
    """A new section."""
    self._parts.append(f'## {text}')

  def table(self, table: pd.DataFrame, name: str, title: str = '') -> None:
    """A table, also written as <name>.csv; numbers with two decimals."""
    table.to_csv(self.folder / f'{name}.csv')
    if title:
      self._parts.append(f'**{title}**')
    shown = table.copy()
    for column in shown.select_dtypes('float'):
      shown[column] = shown[column].map('{:.2f}'.format)
    self._parts.append(shown.to_markdown(disable_numparse=True))

  def picture(self, path: Path, words: str) -> None:
    """A picture in the page's folder; words: for those who do not see it."""
    self._parts.append(f'![{words}]({path.name})')

  def write(self) -> tuple[Path, Path]:
    """Writes report.md and report.html.

    Returns:
      Their paths. The HTML holds the pictures, and asks for nothing else.
    """
    text = '\n\n'.join(self._parts) + '\n'
    body = markdown.markdown(text, extensions=['tables'])
    html = SHELL.format(
      title=self.title, looks=LOOKS, body=IMAGE.sub(self._embedded, body)
    )
    paths = self.folder / 'report.md', self.folder / 'report.html'
    for path, content in zip(paths, (text, html)):
      path.write_text(content, encoding='utf-8')
    return paths

  def _embedded(self, match: re.Match) -> str:
    data = base64.b64encode((self.folder / match[1]).read_bytes()).decode()
    kind = 'svg+xml' if match[1].endswith('.svg') else 'png'
    return f'src="data:image/{kind};base64,{data}"'
