#!/bin/sh
# Puts the password into the list of permissions, in memory, and becomes Redis. Redis reads no password from a file itself.
set -eu
umask 077
sed "s/@PASSWORD@/$(cat /run/secrets/redis_password)/" /etc/casework-redis/users.acl > /run/redis/users.acl
exec redis-server /etc/casework-redis/redis.conf --dir /data --bind 0.0.0.0 --aclfile /run/redis/users.acl
