"""Rows cut from a flat array, on the host and on devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.inputs.store import Store
from mgcma_jax.training.sharding import make_mesh, replicated, split

LENGTHS = {'a': 3, 'b': 1, 'c': 5, 'd': 0}


@pytest.fixture(params=[((), np.int16), ((2,), np.float32), ((2,), 'bfloat16')])
def rows(request, rng):
  """An array for each name; none of their values is 0."""
  shape, dtype = request.param
  return {
    name: rng.integers(1, 99, (length, *shape)).astype(jnp.dtype(dtype))
    for name, length in LENGTHS.items()
  }


@pytest.fixture
def store(rows):
  lengths = np.array(list(LENGTHS.values()))
  flat = np.concatenate(list(rows.values()))
  return Store.of('feature_BTC', flat, list(rows), lengths, lambda S: S // 10)


def on_devices(store, num_rows):
  mesh = make_mesh(num_rows)
  return store.put(replicated(mesh), split(mesh))


@pytest.mark.parametrize('place', [lambda store, _: store, on_devices])
@pytest.mark.parametrize('names', ['abcd', 'cc', 'd'])
def test_rows_are_exact_and_padded_with_0(rows, store, place, names):
  """The last utterance's padding goes beyond the flat array's end."""
  found = place(store, len(names)).padded(list(names), 60)
  expected = store.shape(len(names), 60)
  assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
  for row, name in zip(np.asarray(found), names, strict=True):
    np.testing.assert_array_equal(row[: LENGTHS[name]], rows[name])
    assert not row[LENGTHS[name] :].any()


@pytest.mark.parametrize('place', [lambda store, _: store, on_devices])
@pytest.mark.parametrize('names', ['abcd', 'ccdc', 'ddaa'])
def test_two_stand_end_to_end(rows, store, place, names):
  store = place(dataclasses.replace(store, per_row=2), 2)
  found = store.padded(list(names), 120)
  expected = store.shape(4, 120)
  assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
  for row, pair in zip(np.asarray(found), (names[:2], names[2:]), strict=True):
    both = np.concatenate([rows[name] for name in pair])
    np.testing.assert_array_equal(row[: len(both)], both)
    assert not row[len(both) :].any()


def test_rows_are_shared_out_over_the_devices(store):
  found = on_devices(store, 4).padded(list('abcd'), 60)
  assert len(found.sharding.device_set) == 4
  assert found.addressable_shards[0].data.shape[0] == 1


def test_a_shape_that_was_compiled_compiles_nothing(store):
  """Nothing in it depends on the rows."""
  store, compiled = on_devices(store, 2), []

  def listen(event, seconds, **_):
    if 'backend_compile' in event:
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    store.compile(2, 70)
    assert compiled
    compiled.clear()
    store.padded(['c', 'b'], 70)
    assert not compiled
    store.padded(['c', 'b'], 80)
    assert compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def test_what_does_not_fit_names_the_key(store, monkeypatch):
  def device_put(*_):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  monkeypatch.setattr(jax, 'device_put', device_put)
  with pytest.raises(ValueError, match='set config.device_data_gb=0'):
    on_devices(store, 1)
