"""Addresses of Ray clusters are tried before Ray waits for them."""

import socket

import pytest

from collab_jax import _ray_address


def test_an_address_where_nothing_listens_is_an_error_at_once():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))  # Bound, and not listening.
    port = free.getsockname()[1]
    for scheme in '', 'ray://':
      with pytest.raises(ConnectionError, match='refused'):
        _ray_address.probe(f'{scheme}127.0.0.1:{port}')
    free.listen()
    _ray_address.probe(f'127.0.0.1:{port}')
    _ray_address.probe(f'ray://127.0.0.1:{port}')


def test_an_unknown_name_is_no_connection():
  with pytest.raises(ConnectionError):
    _ray_address.probe('nowhere.invalid:6379')


@pytest.mark.parametrize('address', ['', 'auto', 'local', 'host:port'])
def test_addresses_without_a_port_are_left_to_ray(address):
  _ray_address.probe(address)
