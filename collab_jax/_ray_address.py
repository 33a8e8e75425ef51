"""Addresses of Ray clusters."""

import socket


def probe(address: str, seconds: float = 10.0) -> None:
  """Connects to a cluster's address once, and closes the connection.

  Ray by itself tries for a minute or more where nothing listens, and says
  nothing meanwhile.

  Args:
    address: Address as Ray takes it; without a port, as in 'auto', it is not
      tried.
    seconds: Time to connect.

  Raises:
    ConnectionError: Nothing answers there.
  """
  host, _, port = address.rpartition('://')[2].rpartition(':')
  if not host or not port.isdecimal() or int(port) >= 1 << 16:
    return
  try:
    socket.create_connection((host.strip('[]'), int(port)), seconds).close()
  except OSError as error:  # Unknown names and silence are no ConnectionError.
    raise ConnectionError(str(error)) from error
