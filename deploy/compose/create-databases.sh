#!/bin/sh
# Runs once, when the PostgreSQL volume is new: the services' ordinary role and a database of its own for each.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$KAP_POSTGRES_PASSWORD" --username postgres <<'SQL'
CREATE ROLE kap LOGIN PASSWORD :'password';
SQL
for service in intake scheduling sessions outcomes gateway delivery; do
    psql --set ON_ERROR_STOP=1 --username postgres --command "CREATE DATABASE kap_$service OWNER kap"
    psql --set ON_ERROR_STOP=1 --username postgres --command "REVOKE CONNECT ON DATABASE kap_$service FROM PUBLIC"
done
