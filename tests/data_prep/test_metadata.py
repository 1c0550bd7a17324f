import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep import metadata
from data_prep.shards import Options
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.records import Utterance

REPOSITORY = Path(__file__).parents[2]
EMODB = REPOSITORY / '../shared/data/emodb'

HEADER = 'file_name,text,label,speaker,session\n'
CSV = (
  'votes,file_name,label,text,speaker,session,dialogue,style,gender,mood\n'
  'sad; anger;,wav/a.wav,sad,"Äh, ""so""?",Zoë,1,d1,scripted,female,x\n'
  '\n'
  ',wav/b.flac,anger,[LAUGHTER],Bo,Studio B-2,,,,\n'
)
UTTERANCES = [
  Utterance(
    name='wav/a',
    text='Äh, "so"?',
    label='sad',
    speaker='Zoë',
    session='session1',
    dialogue='d1',
    style='scripted',
    gender='female',
    votes=('sad', 'anger'),
  ),
  Utterance(
    name='wav/b',
    text='[LAUGHTER]',
    label='anger',
    speaker='Bo',
    session='studio_b_2',
  ),
]


@pytest.fixture
def folder(tmp_path):
  """A corpus of two sounds, one at 8 kHz in stereo."""
  source = tmp_path / 'my-corpus'
  (source / 'wav').mkdir(parents=True)
  soundfile.write(source / 'wav/a.wav', np.full(800, 0.1), 16_000)
  soundfile.write(source / 'wav/b.flac', np.full((800, 2), 0.1), 8_000)
  (source / 'metadata.csv').write_text(CSV, encoding='utf-8-sig')
  return source


def read(folder, text=None, words=None, **options):
  if text is not None:
    (folder / 'metadata.csv').write_text(text, encoding='utf-8')
  return metadata.read_items(folder, words, Options(**options))


def test_rows_become_utterances(folder):
  items = read(folder)
  assert [utterance for utterance, _ in items] == UTTERANCES
  paths = [folder / 'wav/a.wav', folder / 'wav/b.flac']
  assert [path for _, path in items] == paths


def test_the_command_writes_a_corpus(folder, tmp_path):
  command = [
    *(sys.executable, '-m', 'data_prep.metadata', f'--source={folder}'),
    *(f'--out={tmp_path / "out"}', '--labels=sad,anger:angry,fear'),
  ]
  result = subprocess.run(
    command, cwd=REPOSITORY, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.rstrip().split('\n') == [
    'session1: 0 angry, 1 sad, 0 fear; 1 speakers',
    'studio_b_2: 1 angry, 0 sad, 0 fear; 1 speakers',
  ]
  corpus = Corpus.open(tmp_path / 'out')
  assert corpus.name == 'my_corpus'
  assert corpus.labels == ('angry', 'sad', 'fear')
  entries = corpus.utterances()
  assert [e.utterance.label for e in entries] == ['sad', 'angry']
  assert entries[0].utterance.votes == ('sad', 'angry')
  assert [e.num_samples for e in entries] == [800, 1600]
  (folder / 'metadata.csv').unlink()
  again = subprocess.run(
    command, cwd=REPOSITORY, capture_output=True, text=True
  )
  assert again.returncode == 1
  # Without PyTorch, transformers says so first.
  assert 'there is no ' in again.stderr
  assert 'Traceback' not in again.stderr


def test_labels_are_those_of_the_file_in_stored_order(folder, tmp_path):
  rows = [
    f'wav/a.wav,Yes.,{x},Zoë,1\n' for x in ('sad', 'bored', 'happy', 'angry')
  ]
  rows = [row.replace('a.wav', f'{i}.wav') for i, row in enumerate(rows)]
  for i in range(4):
    soundfile.write(folder / f'wav/{i}.wav', np.full(800, 0.1), 16_000)
  (folder / 'metadata.csv').write_text(HEADER + ''.join(rows))
  flags = [f'--source={folder}', f'--out={tmp_path / "out"}', '--name=mine']
  metadata.main(flags)
  corpus = Corpus.open(tmp_path / 'out')
  assert corpus.name == 'mine'
  assert corpus.labels == ('angry', 'happy', 'sad', 'bored')


def test_columns_that_lack_are_told(folder):
  (folder / 'metadata.csv').write_text('file_name,text,label,speaker\n')
  with pytest.raises(ValueError, match='session: the part that is held out'):
    read(folder)
  with pytest.raises(ValueError, match="columns 'file_name;text'; add these"):
    read(folder, 'file_name;text\n')
  with pytest.raises(ValueError, match='has the columns none'):
    read(folder, '')
  with pytest.raises(ValueError, match='names a column twice'):
    read(folder, 'label,' + HEADER)
  with pytest.raises(ValueError, match='no line below its header'):
    read(folder, HEADER)


def test_text_may_lack_only_where_allowed(folder):
  without = 'file_name,label,speaker,session\nwav/a.wav,sad,Zoë,1\n'
  with pytest.raises(ValueError, match='text: the words .*--no-text'):
    read(folder, without)
  [(utterance, _)] = read(folder, without, no_text=True)
  assert utterance.text is None
  empty = HEADER + 'wav/a.wav, ,sad,Zoë,1\n'
  with pytest.raises(ValueError, match='line 2: the text is empty'):
    read(folder, empty)
  for option in ('no_text', 'skip_bad'):
    [(utterance, _)] = read(folder, empty, **{option: True})
    assert utterance.text is None


@pytest.mark.parametrize('skip_bad', [False, True])
def test_faulty_lines_are_listed_together(folder, skip_bad, tmp_path):
  soundfile.write(tmp_path / 'out.wav', np.zeros(800), 16_000)
  (folder / 'link.wav').symlink_to(tmp_path / 'out.wav')
  with pytest.raises(ValueError) as error:
    read(
      folder,
      HEADER.replace('label', 'label,style')
      + 'wav/a.wav,Yes.,sad,,Zoë,1\n'
      + ',Yes.,sad,,Zoë,1\n'
      + 'wav/c.wav,Yes.,,,,\n'
      + '../out.wav,Yes.,sad,,Zoë,1\n'
      + f'{folder}/wav/d.wav,Yes.,sad,,Zoë,1\n'
      + 'wav/../wav/a.wav,Yes.,sad,,Zoë,1\n'
      + 'link.wav,Yes.,sad,,Zoë,1\n'
      + 'wav/e.wav,Yes.,sad,acted,Zoë,1\n'
      + '/,Yes.,sad,,Zoë,1\n',
      skip_bad=skip_bad,
    )
  lines = str(error.value).split('\n')
  assert lines[0].endswith('metadata.csv needs mending:')
  assert [
    line.split('  line ')[1].split(': fill')[0] for line in lines[1:]
  ] == [
    '3: the file_name is empty',
    '4: the label is empty',
    '4: the session is empty',
    '4: the speaker is empty',
    f'5: ../out.wav is outside the folder {folder}: put the sound into it',
    f'6: {folder}/wav/d.wav is outside the folder {folder}: put the sound '
    'into it',
    f'7: wav/../wav/a.wav is outside the folder {folder}: put the sound '
    'into it',
    f'8: link.wav is outside the folder {folder}: put the sound into it',
    "9: the style 'acted' is not improvised or scripted",
    f'10: / is outside the folder {folder}: put the sound into it',
  ]


def test_names_that_no_file_has(folder, tmp_path):
  """NUL, a link to itself, a name that is too long."""
  with pytest.raises(ValueError, match='line 2: a\0b.wav is outside'):
    read(folder, HEADER + 'a\0b.wav,Yes.,sad,Zoë,1\n')
  (folder / 'loop.wav').symlink_to('loop.wav')
  for name in ('loop.wav', 'x' * 300 + '.wav'):
    text = HEADER + f'{name},Yes.,sad,Zoë,1\n'
    (folder / 'metadata.csv').write_text(text)
    with pytest.raises(SystemExit, match=name):
      metadata.main([f'--source={folder}', f'--out={tmp_path / "out"}'])


def test_what_skip_bad_may_leave_out(folder, tmp_path):
  rows = (
    HEADER
    + 'wav/a.wav,Yes.,sad,Zoë,1\n'
    + 'wav/a.wav,Yes.,sad,Zoë,1\n'
    + './wav/a.flac,Yes.,sad,Zoë,1\n'
    + 'wav/b.flac,"Two\nlines.",bored,Bo,2\n'
    + 'wav/c.wav,,sad,Bo,2\n'
  )
  with pytest.raises(ValueError) as error:
    read(folder, rows, words={'sad': 'sad'})
  lines = [line.split(', or leave')[0] for line in str(error.value).split('\n')]
  assert lines[1:] == [
    '  line 3: wav/a is on line 2 too: keep one, or rename',
    '  line 4: wav/a is on line 2 too: keep one, or rename',
    "  line 6: the label 'bored' is outside --labels: add bored:<word>",
    '  line 7: the text is empty: fill it in',
  ]
  flags = ['--labels=sad', '--skip-bad', f'--out={tmp_path / "out"}']
  metadata.main([f'--source={folder}', *flags])
  corpus = Corpus.open(tmp_path / 'out')
  assert [e.utterance.name for e in corpus.utterances()] == ['wav/a']
  skipped = (tmp_path / 'out/skipped.csv').read_text()
  assert skipped.count('\n') == 5 and 'bored' in skipped


def test_a_label_is_not_taken_for_the_word_of_another(folder):
  rows = HEADER + 'wav/a.wav,Yes.,sad,Zoë,1\nwav/b.flac,Yes.,angry,Bo,1\n'
  words = {'sad': 'sad', 'anger': 'angry'}
  with pytest.raises(ValueError, match='line 3: .*add angry:angry'):
    read(folder, rows, words, skip_bad=True)


def test_sessions_become_names_of_splits(folder):
  def sessions(*names):
    rows = [f'{i}.wav,Yes.,sad,Zoë,{x}\n' for i, x in enumerate(names)]
    items = read(folder, HEADER + ''.join(rows))
    return [utterance.session for utterance, _ in items]

  assert sessions('1', 'session2', 'Ses03', 'room/é.4', '5b', '1') == [
    *('session1', 'session2', 'ses03', 'room_4', 'session5b', 'session1')
  ]
  with pytest.raises(ValueError, match="'a b', 'A-b', .* all be a_b"):
    sessions('a b', 'A-b')
  with pytest.raises(ValueError, match='would all be session1'):
    sessions('1', 'session1')
  for name in ('é', 'all'):
    with pytest.raises(ValueError, match=f"'{name}', which cannot name"):
      sessions(name)


def test_a_broken_file_is_told(folder):
  with pytest.raises(ValueError, match='line 2, has 6 fields, the header 5'):
    read(folder, HEADER + 'wav/a.wav,No, no.,sad,Zoë,1\n')
  with pytest.raises(ValueError, match='no CSV in UTF-8 .*unexpected end'):
    read(folder, HEADER + 'wav/a.wav,No.,sad,Zoë,"1\nwav/b.flac,\n')
  (folder / 'metadata.csv').write_bytes((HEADER + 'ä').encode('latin-1'))
  with pytest.raises(ValueError, match='no CSV in UTF-8 .*0xe4'):
    read(folder)
  (folder / 'metadata.csv').unlink()
  with pytest.raises(FileNotFoundError, match='metadata.csv that has the col'):
    read(folder)


@pytest.mark.skipif(
  not EMODB.is_dir(), reason=f'the EmoDB sample is not at {EMODB}'
)
def test_real_speech_is_prepared(tmp_path, capsys):
  metadata.main([f'--source={EMODB}', f'--out={tmp_path / "out"}'])
  assert 'session5: 27 angry, 17 happy, 16 neutral' in capsys.readouterr().out
  corpus = Corpus.open(tmp_path / 'out')
  assert corpus.name == 'emodb'
  assert corpus.labels == ('angry', 'happy', 'neutral', 'sad')
  entries = corpus.utterances()
  assert len(entries) == 339
  first = entries[0].utterance
  assert (first.name, first.speaker) == ('wav/03a01Fa', '03')
  assert first.text == 'Der Lappen liegt auf dem Eisschrank.'
