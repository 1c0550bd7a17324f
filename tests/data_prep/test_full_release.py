import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import iemocap
from mgcma_jax.inputs.corpus_info import CorpusInfo

FAKE = Path(__file__).with_name('fake_full_release.py')


@pytest.mark.slow
def test_a_release_of_full_size_gives_the_5531(tmp_path, capsys):
  release, out = tmp_path / 'release', tmp_path / 'corpus'
  subprocess.run(
    [
      sys.executable,
      str(FAKE),
      f'--out={release}',
      f'--expected={iemocap.EXPECTED_COUNTS}',
    ],
    cwd=Path(__file__).parents[2],
    check=True,
  )
  iemocap.main([f'--source={release}', f'--out={out}'])
  assert '5531/5531  10039/10039' in capsys.readouterr().out
  info = CorpusInfo.read(out)
  expected = json.loads(iemocap.EXPECTED_COUNTS.read_text())['four']
  for number, four in expected['per_session'].items():
    assert info.counts[f'session{number}'] == {
      'angry': four['ang'],
      'happy': four['hap'],
      'neutral': four['neu'],
      'sad': four['sad'],
    }
  assert sum(shard.num_records for shard in info.shards) == 5531
