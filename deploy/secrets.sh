#!/bin/sh
# Makes the secrets that docker-compose.yml mounts, once. The folder is closed to others; a file in it is readable, since a
# container's user must read it through the mount.
set -eu
folder=$(dirname "$0")/secrets
mkdir -p "$folder" && chmod 700 "$folder"
for name in postgres_password redis_password; do
  [ -s "$folder/$name" ] || { (umask 022; head -c 24 /dev/urandom | base64 | tr '+/' '-_' > "$folder/$name"); echo "made $folder/$name"; }
done
