"""What many runs say together, as one page.

python -m mgcma_jax.report runs/mgcma

Reads the folders that crossval has filled and writes report/ in it: one
self-contained HTML page, the same as Markdown, its tables as CSV.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from mgcma_jax import command
from mgcma_jax.reporting import figures, groups, tables, uncertainty
from mgcma_jax.reporting.page import Page
from mgcma_jax.reporting.runs import System, read_systems
from mgcma_jax.training.retrieval import RANKS

FIGURE_3 = ('S0', 'S1', 'S2', 'S3', 'S4')
WAYS = ('speech_to_text', 'text_to_speech')


def report(workdir: str | Path) -> Path:
  """Writes the report of all finished runs.

  Args:
    workdir: that crossval has filled.

  Returns:
    The path of report.html.

  Raises:
    ValueError: no finished run, or runs of several versions of the corpus.
  """
  workdir = Path(workdir)
  systems = read_systems(workdir)
  by_name = {system.name: system for system in systems}
  chosen = by_name.get('S0', systems[0])
  page = Page(f'MGCMA: {workdir.name}', workdir / 'report')
  sections = {
    'runs': lambda: _runs(page, systems),
    'tables': lambda: _tables(page, systems),
    'classes and groups': lambda: _groups(page, chosen),
    'training': lambda: _training(page, chosen),
    'uncertainty': lambda: _uncertainty(page, chosen),
    'retrieval': lambda: _retrieval(page, systems),
    'representations': lambda: _representations(page, by_name),
  }
  bar = tqdm(sections.items(), unit='section', leave=False)
  for name, write in bar:
    bar.set_postfix_str(name)
    write()
  _, html = page.write()
  return html


def _runs(page: Page, systems: Sequence[System]) -> None:
  """What the page rests on, and what is missing."""
  if any(system.oracle for system in systems):
    page.text(
      '**ORACLE: some of these runs chose their epoch on the test session. '
      'Their figures are too good, and are marked.**'
    )
  runs = [run for system in systems for run in system.runs]
  seeds = sorted({run.seed for run in runs})
  corpus = runs[0].result['corpus']
  protocols = sorted({run.result['protocol'].split('; ')[-1] for run in runs})
  page.text(
    f'{len(runs)} runs of {len(systems)} systems on {corpus["name"]} '
    f'({len(corpus["sessions"])} sessions, leave one session out), seeds '
    f'{", ".join(map(str, seeds))}. In each, {"; ".join(protocols)}.',
    'WA is the share of right predictions, UA the mean of the class recalls, '
    'both in %. Mean ± sd is over folds and seeds; pooled figures take all '
    'utterances together, the mean over seeds, with a 95 % bootstrap interval '
    'over whole dialogues (speakers where the corpus has no dialogues).',
  )
  gaps = [f'{s.name}: {", ".join(s.missing)}' for s in systems if s.missing]
  if gaps:
    page.text('**Missing runs**, so that no mean is shown:')
    page.text('\n'.join(f'- {gap}' for gap in gaps))


def _tables(page: Page, systems: Sequence[System]) -> None:
  page.heading('The systems, beside the paper’s figures')
  for i, (title, table) in enumerate(tables.comparison(systems).items()):
    page.table(table, f'systems_{i + 1}', title)
  if (table := tables.differences(systems)) is not None:
    page.table(
      table, 'differences', 'Differences, pooled and paired, in points'
    )
    page.text(
      'p by a permutation test in which the predictions for each dialogue may '
      'change sides; Holm: corrected for the number of systems in this table.'
    )
  page.table(
    tables.baselines(systems), 'table_1', 'Table I, IEMOCAP as published'
  )


def _groups(page: Page, system: System) -> None:
  page.heading(f'{system.name} by class, speaker, style and text')
  counts = groups.confusion(system)
  page.table(counts, 'confusion', 'Confusion matrix, pooled')
  path = figures.confusion(counts, page.folder / 'confusion.svg')
  page.picture(path, 'confusion matrix in %, rows by label')
  page.table(groups.by_class(system), 'classes', 'Classes, in %')
  for column, title in groups.GROUPS.items():
    table = groups.by_group(system, column)
    if table is None:
      page.text(f'**{title}**: not known for this corpus.')
    else:
      page.table(table, column, f'{title}, in %')


def _training(page: Page, system: System) -> None:
  page.heading(f'{system.name} in training')
  path = page.folder / 'training.svg'
  page.picture(
    figures.training_curves(system, path),
    'losses over steps, UA on the held-out set over epochs for each run',
  )


def _uncertainty(page: Page, system: System) -> None:
  page.heading(f'Does {system.name} know when it is wrong?')
  path = page.folder / 'reliability.svg'
  page.picture(
    figures.reliability(system, path),
    'calibration curve; errors among the predictions kept, the surest first',
  )
  page.text(
    'AUROC: the probability that an error has the larger value; 0.5 is '
    'chance. Disagreement: the share of annotators’ votes that are not for '
    'the label.'
  )
  page.table(uncertainty.signals(system), 'signals')


def _retrieval(page: Page, systems: Sequence[System]) -> None:
  page.heading('Does speech find its text?')
  page.text(
    'R@k in % on each test session, mean over runs: a hit is a text (or a '
    'recording) with the right words among the k nearest. Only '
    'representations that have not seen the other stream are shown: the '
    'Gaussians where DAM comes before TAM, IAM’s vectors where IAM does or '
    'there is no TAM. After TAM the pair is found by copying.'
  )
  rows = []
  for system in systems:
    for name in ('gaussians', 'instances'):
      found = [run.result['retrieval'].get(name) for run in system.runs]
      if system.missing or None in found:
        continue
      row = {'system': system.name, 'by': name}
      for k in RANKS:
        for way in (*WAYS, 'chance'):
          values = [100 * of_run[way][f'R@{k}'] for of_run in found]
          label = way.replace('_', ' ').replace(' to ', ' → ')
          row[f'{label} R@{k}'] = sum(values) / len(values)
      rows.append(row)
  if rows:
    page.table(pd.DataFrame(rows).set_index('system'), 'retrieval')
  else:
    page.text('No complete system has such a representation.')


def _representations(page: Page, by_name: dict[str, System]) -> None:
  page.heading('Speech and text after each stage (the paper’s Figure 3)')
  shown = [by_name[name] for name in FIGURE_3 if name in by_name]
  runs = [run for system in shown for run in system.runs]
  if not runs:
    page.text(f'None of {", ".join(FIGURE_3)} has been run.')
    return
  session, seed = min((run.session, run.seed) for run in runs)
  path = page.folder / 'representations.png'
  page.text(
    f't-SNE of {session}, the test session, seed {seed}: speech hollow, text '
    'filled, one marker for each class. Distances between panels mean nothing.'
  )
  page.picture(
    figures.representations(shown, session, seed, path),
    'one row for each system, one column for each stage',
  )


def main(workdir: str) -> None:
  """Prints where the report lies."""
  print(report(workdir))


if __name__ == '__main__':
  command.run(main, 'workdir')
