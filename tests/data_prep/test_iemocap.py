import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep import iemocap
from data_prep.expected_counts import read_expected
from data_prep.labels import in_stored_order, parse_mapping
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.records import Utterance

REPOSITORY = Path(__file__).parents[2]
HEADER = '% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n'
APPLE_DOUBLE = bytes.fromhex('00051607 00020000') + b'Mac OS X\n'

LABELS = {
  'Ses01F_impro01': (
    '[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n'
    'C-E2:\tNeutral;\t()\n'
    'C-E3:\tNeutral; Frustration;\t(a: [b]; anger; c)\n'
    'C-E4:\t; Excited ;;\t()\n'
    'C-F1:\tSadness;\t(curious)\n'
    'A-E3:\tval 3; act 2; dom  2;\t()\n'
    'A-F1:\tval ; act ; dom  ;\t()\n\n'
    # No V/A/D; Windows' line ends.
    '[10.0100 - 11.3925]\tSes01F_impro01_M000\texc\r\n'
    'C-E2:\tNeutral state; Surprise;\t()\r\n\r\n'
    '[12.0 - 12.5]\tSes01F_impro01_F001\txxx\t[2.0, 2.0, 2.0]\n'
    '[13.0 - 13.2]\tSes01F_impro01_MXX0\tneu\t[2.0, 2.0, 2.0]\n'
    'C-E2:\tAnger;\t()\n'
  ),
  'Ses05M_script01_1': '[1.0 - 2.0]\tSes05M_script01_1_F000\tang\t[2, 2, 2]\n',
  'Ses05M_script01_1b': '[3.0 - 4.0]\tSes05M_script01_1b_F000\tsad\t[2, 2, 2]',
}
TEXTS = {
  # In another order than the labels.
  'Ses01F_impro01': (
    'Ses01F_impro01_M000 [010.0100-011.3925]: Who: "me" -- [you]...\r\n'
    'M: Yeah.\n'
    'Ses01F_impro01_MXX0 [011.4000-011.5000]: Mm-hm.\n'
    'Ses01F_impro01_F000 [006.2901-008.2357]: Caf\xe9\x85 [LAUGHTER]\n'
    'F: ...\n'
  ),
  'Ses05M_script01_1': 'Ses05M_script01_1_F000 [001.0-002.0]: [Breathing]\n',
  'Ses05M_script01_1b': 'Ses05M_script01_1b_F000 [003.0-004.0]:\n',
}
UTTERANCES = [
  Utterance(
    name='Ses01F_impro01_F000',
    text='Caf\xe9\x85 [LAUGHTER]',
    label='neutral',
    speaker='Ses01F',
    session='session1',
    dialogue='Ses01F_impro01',
    style='improvised',
    gender='female',
    votes=('neutral', 'neutral', 'frustrated', 'happy'),
    start=6.2901,
    end=8.2357,
  ),
  Utterance(
    name='Ses01F_impro01_M000',
    text='Who: "me" -- [you]...',
    label='happy',
    speaker='Ses01M',
    session='session1',
    dialogue='Ses01F_impro01',
    style='improvised',
    gender='male',
    votes=('neutral', 'surprised'),
    start=10.01,
    end=11.3925,
  ),
  Utterance(
    name='Ses05M_script01_1_F000',
    text='[Breathing]',
    label='angry',
    speaker='Ses05F',
    session='session5',
    dialogue='Ses05M_script01_1',
    style='scripted',
    gender='female',
    start=1.0,
    end=2.0,
  ),
  Utterance(
    name='Ses05M_script01_1b_F000',
    text='',
    label='sad',
    speaker='Ses05F',
    session='session5',
    dialogue='Ses05M_script01_1b',
    style='scripted',
    gender='female',
    start=3.0,
    end=4.0,
  ),
]
EXPECTED = {
  'all': {
    'per_session': {
      '1': {'neu': 1, 'exc': 1, 'xxx': 1},
      '5': {'ang': 1, 'sad': 1},
    }
  },
  'dialogs': {
    'Ses01F_impro01': 3,
    'Ses05M_script01_1': 1,
    'Ses05M_script01_1b': 1,
  },
}


def write(path, text):
  """The file and its AppleDouble twin, with lines that must not be read."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.encode('latin-1'))
  twin = APPLE_DOUBLE + text.replace(']: ', ']: Not ').encode('latin-1')
  path.with_name(f'._{path.name}').write_bytes(twin)


@pytest.fixture
def release(tmp_path):
  """A folder as unpacked on a Mac: source/IEMOCAP_full_release/Session1 …"""
  source = tmp_path / 'source'
  root = source / 'IEMOCAP_full_release'
  for dialogue, labels in LABELS.items():
    dialog = root / f'Session{dialogue[4]}/dialog'
    write(dialog / f'EmoEvaluation/{dialogue}.txt', HEADER + labels)
    write(dialog / f'transcriptions/{dialogue}.txt', TEXTS[dialogue])
    categorical = dialog / f'EmoEvaluation/Categorical/{dialogue}_e2_cat.txt'
    write(categorical, '[0.0 - 1.0]\tSes01F_impro09_F000\tneu\n')
  for utterance in UTTERANCES:
    session = root / f'Session{utterance.session[-1]}'
    path = session / f'sentences/wav/{utterance.dialogue}/{utterance.name}.wav'
    write(path, '')
    soundfile.write(path, np.full(800, 100, np.int16), 16_000)
  (root / '._Session1').mkdir()
  (source / '__MACOSX/Session1').mkdir(parents=True)
  (tmp_path / 'expected.json').write_text(json.dumps(EXPECTED))
  return root


def prepare(release, *flags):
  """The command, in this process, on the release's parent folder."""
  folder = release.parents[1]
  iemocap.main(
    [
      f'--source={release.parent}',
      f'--out={folder / "out"}',
      f'--expected={folder / "expected.json"}',
      *flags,
    ]
  )
  return Corpus.open(folder / 'out')


def read(release, labels=iemocap.FOUR):
  sessions = iemocap.find_sessions(release)
  return iemocap.read_release(sessions, parse_mapping(labels))


def edit(path, old, new):
  text = path.read_bytes().decode('latin-1')
  assert old in text
  path.write_bytes(text.replace(old, new).encode('latin-1'))


def test_every_quirk_is_read_as_by_hand(release):
  labelled, items = read(release)
  assert [utterance for utterance, _ in items] == UTTERANCES
  assert labelled == [
    ('Ses01F_impro01_F000', 'neu'),
    ('Ses01F_impro01_M000', 'exc'),
    ('Ses01F_impro01_F001', 'xxx'),
    ('Ses05M_script01_1_F000', 'ang'),
    ('Ses05M_script01_1b_F000', 'sad'),
  ]
  assert [str(path.relative_to(release)) for _, path in items] == [
    'Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav',
    'Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav',
    'Session5/sentences/wav/Ses05M_script01_1/Ses05M_script01_1_F000.wav',
    'Session5/sentences/wav/Ses05M_script01_1b/Ses05M_script01_1b_F000.wav',
  ]


def test_the_command_writes_a_corpus_and_prints_the_counts(release):
  folder = release.parents[1]
  command = [
    *(sys.executable, '-m', 'data_prep.iemocap', '--name=fake'),
    *(f'--source={release.parent}', f'--out={folder / "out"}'),
    f'--expected={folder / "expected.json"}',
  ]
  result = subprocess.run(
    command, cwd=REPOSITORY, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.rstrip().split('\n') == [
    'found/expected  angry  happy  neutral  sad  all  turns',
    '      session1    0/0    1/1      1/1  0/0  2/2    3/3',
    '      session5    1/1    0/0      0/0  1/1  2/2    2/2',
    '           all    1/1    1/1      1/1  1/1  4/4    5/5',
  ]
  corpus = Corpus.open(folder / 'out')
  assert corpus.name == 'fake'
  assert corpus.labels == ('angry', 'happy', 'neutral', 'sad')
  names = [entry.utterance.name for entry in corpus.utterances()]
  assert names == [utterance.name for utterance in UTTERANCES]
  again = subprocess.run(
    command, cwd=REPOSITORY, capture_output=True, text=True
  )
  assert again.returncode == 1
  assert 'Traceback' not in again.stderr and 'exists' in again.stderr


@pytest.mark.parametrize('levels_up', [0, 1, 2])
def test_either_root_is_found(release, levels_up):
  source = [release, *release.parents][levels_up]
  sessions = iemocap.find_sessions(source)
  assert sessions == [release / 'Session1', release / 'Session5']


def test_a_wrong_source_is_told(release, tmp_path):
  with pytest.raises(FileNotFoundError, match='no folder .*nowhere'):
    iemocap.find_sessions(tmp_path / 'nowhere')
  match = 'no folder Session1.*Session1.*are dialog, sentences'
  with pytest.raises(FileNotFoundError, match=match):
    iemocap.find_sessions(release / 'Session1')
  (release.parent / 'copy/Session2').mkdir(parents=True)
  with pytest.raises(ValueError, match='holds 2 releases'):
    iemocap.find_sessions(release.parent)
  with pytest.raises(FileNotFoundError, match='no labelled turn in .*copy'):
    read(release.parent / 'copy')


@pytest.mark.parametrize(
  'flag, classes',
  [
    ('six', ['neutral', 'excited', 'angry', 'sad']),
    ('exc:joyful,xxx:none', ['joyful', 'none']),
  ],
)
def test_label_sets(release, flag, classes):
  words = iemocap._chosen_words(flag)
  _, items = iemocap.read_release(iemocap.find_sessions(release), words)
  assert [utterance.label for utterance, _ in items] == classes
  joy = words['exc']
  assert ('excited' in items[0][0].votes) == (flag == 'six')
  if flag == 'six':
    assert items[0][0].votes[-1] == joy
  else:
    assert items[0][0].votes == ('neutral', 'surprised')


def test_further_words_follow_the_four():
  words = iemocap._chosen_words('six').values()
  four = ('angry', 'happy', 'neutral', 'sad')
  assert in_stored_order(words) == (*four, 'excited', 'frustrated')
  assert in_stored_order(['bored', 'sad', 'angry', 'afraid', 'sad']) == (
    *('angry', 'sad'),
    *('afraid', 'bored'),
  )


@pytest.mark.parametrize(
  'flag, match',
  [
    ('five', 'no label five; it has ang, '),
    ('ang:angry,joy:happy', 'no label joy; it has ang, '),
    ('ang:angry,ang:sad', "maps 'ang' twice"),
    ('ang:angry,,sad:sad', "'' is no pair"),
    ('ang:', "'ang:' is no pair"),
  ],
)
def test_a_wrong_mapping_is_told(flag, match):
  with pytest.raises(ValueError, match=match):
    iemocap._chosen_words(flag)


def test_wrong_counts_stop_unless_partial_is_allowed(release, capsys):
  labels = release / 'Session1/dialog/EmoEvaluation/Ses01F_impro01.txt'
  edit(labels, '_M000\texc', '_M000\tfru')
  (release / 'Session5/dialog/EmoEvaluation/Ses05M_script01_1b.txt').unlink()
  problems = (
    'this is not the whole release:\n'
    '  dialogue Ses05M_script01_1b is absent, with 1 turns\n'
    '  session1 has 0 utterances that are happy, not 1\n'
    '  session5 has 0 utterances that are sad, not 1\n'
  )
  with pytest.raises(SystemExit) as stop:
    prepare(release)
  assert str(stop.value).startswith(problems)
  assert str(stop.value).endswith('by --allow-partial.')
  assert not (release.parents[1] / 'out').exists()
  assert '1/2' in capsys.readouterr().out
  corpus = prepare(release, '--allow-partial')
  assert problems in capsys.readouterr().out
  assert len(corpus.utterances()) == 2


def test_wrong_turns_and_absent_sessions_are_named(release, capsys):
  edit(
    release.parents[1] / 'expected.json',
    '"Ses01F_impro01": 3, "Ses05M_script01_1": 1',
    '"Ses01F_impro01": 7, "Ses04F_impro01": 30, "Ses04F_impro02": 9',
  )
  prepare(release, '--allow-partial')
  report = capsys.readouterr().out.split('release:\n')[1]
  assert report.strip().split('\n  ') == [
    'session4 is absent, with 39 turns',
    'dialogue Ses01F_impro01 has 3 turns, not 7',
    'dialogue Ses05M_script01_1 is not expected; it has 1 turns',
  ]


def test_turns_without_audio_or_text_are_named(release):
  texts = release / 'Session1/dialog/transcriptions/Ses01F_impro01.txt'
  edit(texts, 'Ses01F_impro01_F000', 'Ses01F_impro01_FXX0')
  texts = release / 'Session5/dialog/transcriptions/Ses05M_script01_1.txt'
  twice = 'Ses05M_script01_1_F000 [1.0-2.0]: No.'
  edit(texts, '[Breathing]', f'Yes.\n{twice}')
  folder = release / 'Session5/sentences/wav/Ses05M_script01_1b'
  (folder / 'Ses05M_script01_1b_F000.wav').unlink()  # ._ stays
  with pytest.raises(SystemExit) as stop:
    prepare(release)
  no_text = 'no text, or two that differ, in transcriptions/'
  message = str(stop.value)
  for line in (
    f'no audio in {folder} for Ses05M_script01_1b_F000\n',
    f'{no_text}Ses01F_impro01.txt for Ses01F_impro01_F000\n',
    f'{no_text}Ses05M_script01_1.txt for Ses05M_script01_1_F000\n',
  ):
    assert f'  {line}' in message
  assert '--allow-partial and --skip-bad' in message
  with pytest.raises(SystemExit, match='no text'):  # not dropped silently
    prepare(release, '--allow-partial')
  corpus = prepare(release, '--allow-partial', '--skip-bad')
  [entry] = corpus.utterances()
  assert entry.utterance.name == 'Ses01F_impro01_M000'
  skipped = (corpus.folder / 'skipped.csv').read_text()
  assert skipped.count('\n') == 4


def test_without_text_needs_no_transcripts(release):
  for path in release.glob('Session*/dialog/transcriptions/*'):
    path.unlink()
  corpus = prepare(release, '--no-text')
  assert [e.utterance.text for e in corpus.utterances()] == [None] * 4


def test_the_same_turn_twice_is_a_difference(release):
  folder = release / 'Session5/dialog/EmoEvaluation'
  edit(folder / 'Ses05M_script01_1b.txt', '_1b_F000', '_1_F000')
  with pytest.raises(SystemExit, match='_1 has 2 turns, not 1'):
    prepare(release)
  with pytest.raises(SystemExit, match='name occurs twice'):
    prepare(release, '--allow-partial')


@pytest.mark.parametrize(
  'old, new',
  [
    ('\texc', '\tjoy'),
    ('Ses01F_impro01_M000', 'Ses01F_impro01_M00'),
    ('\tSes01F_impro01_M000\texc', ''),
    ('[10.0100', '[10.01.00'),
    ('11.3925]', '.]'),
  ],
)
def test_a_malformed_label_is_told_with_its_line(release, old, new):
  path = release / 'Session1/dialog/EmoEvaluation/Ses01F_impro01.txt'
  edit(path, old, new)
  with pytest.raises(ValueError, match='impro01.txt, line 11 is no label'):
    read(release)


@pytest.mark.parametrize('text', ['', '{"all": {}}', '[]', '{"all": 3}'])
def test_a_wrong_table_of_counts_is_told(tmp_path, text):
  (tmp_path / 'counts.json').write_text(text)
  with pytest.raises(ValueError, match='counts.json is no table of counts'):
    read_expected(tmp_path / 'counts.json', {})
  with pytest.raises(FileNotFoundError, match='give it by --expected'):
    read_expected(tmp_path / 'none.json', {})


def test_the_four_class_counts_follow_from_all_labels():
  table = json.loads(iemocap.EXPECTED_COUNTS.read_text())
  words = iemocap._chosen_words('four')
  counts = read_expected(iemocap.EXPECTED_COUNTS, words)
  assert counts.utterances.total() == 5531
  assert counts.turns.total() == 10_039 and len(counts.turns) == 151
  for session, by_code in table['four']['per_session'].items():
    for code, n in by_code.items():
      assert counts.utterances[f'session{session}', words[code]] == n
