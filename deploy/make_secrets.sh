#!/bin/sh
# Makes an authority, certificates of servers, proxy and an edge, and the secret
# by which servers know their proxy: deploy/make_secrets.sh FOLDER [NAME ...]
# Further names are those by which edges call the proxy.
set -eu
umask 077
folder=${1:?folder}
shift
mkdir -p "$folder"
cd "$folder"
if [ -e ca.key ]; then
  echo "$folder has an authority already" >&2
  exit 1
fi

# NAME PURPOSE ALTERNATIVE_NAMES: a certificate of the authority for a year.
issue() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" 2>/dev/null
  printf 'subjectAltName=%s\nextendedKeyUsage=%s\n' "$3" "$2" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial \
    -days 365 -extfile "$1.ext" -out "$1.pem" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
  -days 3650 -keyout ca.key -out ca.pem -subj '/CN=collab_jax authority' \
  -addext 'basicConstraints=critical,CA:TRUE' \
  -addext 'keyUsage=critical,keyCertSign,cRLSign' 2>/dev/null
names=DNS:proxy,DNS:localhost,IP:127.0.0.1
for name; do
  names=$names,DNS:$name
done
issue server serverAuth DNS:localhost,IP:127.0.0.1
issue proxy serverAuth "$names"
issue edge clientAuth DNS:edge
# HAProxy reads a certificate and its key from one file.
cat proxy.key >>proxy.pem
openssl rand -hex 32 >proxy_secret
printf 'PROXY_SECRET=%s\n' "$(cat proxy_secret)" >proxy.env
rm -f ca.srl
echo "made in $folder: keep ca.key elsewhere"
