"""Certificate authority for tests."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


class Authority:
  """Certificate authority that signs certificates."""

  def __init__(self, folder, name):
    self._folder = folder
    self._key = ec.generate_private_key(ec.SECP256R1())
    self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    self.path = folder / f'{name}.pem'
    self.path.write_bytes(self._sign(self._name, self._key, True, 1))

  def issue(self, name, days=1):
    """Returns the paths of a certificate for this machine and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    cert = self._folder / f'{name}.pem'
    cert.write_bytes(self._sign(subject, key, False, days))
    path = self._folder / f'{name}.key'
    path.write_bytes(
      key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
      )
    )
    return cert, path

  def revoked(self):
    """Returns a revocation list, which is no certificate."""
    now = datetime.datetime.now(datetime.UTC)
    revocations = (
      x509.CertificateRevocationListBuilder()
      .issuer_name(self._name)
      .last_update(now)
      .next_update(now + datetime.timedelta(days=1))
      .sign(self._key, hashes.SHA256())
    )
    return revocations.public_bytes(serialization.Encoding.PEM)

  def edwards(self):
    """Returns a certificate whose key gRPC's TLS does not take."""
    key = ed25519.Ed25519PrivateKey.generate()
    return self._sign(self._name, key, False, 1)

  def _sign(self, subject, key, authority, days):
    now = datetime.datetime.now(datetime.UTC)
    machine = [
      x509.DNSName('localhost'),
      x509.IPAddress(ipaddress.ip_address('127.0.0.1')),
      x509.IPAddress(ipaddress.ip_address('::1')),
    ]
    certificate = (
      x509.CertificateBuilder()
      .subject_name(subject)
      .issuer_name(self._name)
      .public_key(key.public_key())
      .serial_number(x509.random_serial_number())
      .not_valid_before(now - datetime.timedelta(days=9))
      .not_valid_after(now + datetime.timedelta(days=days))
      .add_extension(x509.BasicConstraints(authority, None), critical=True)
      .add_extension(x509.SubjectAlternativeName(machine), critical=False)
      .sign(self._key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
