#!/bin/sh
# Runs once, when the PostgreSQL volume is new: a role and a database for each service, and for the process notes. Each role
# may connect to its own database and to no other. Names and passwords are those of the addresses that the services are told.
set -eu
for secret in /run/secrets/*_database_url; do
    url=$(cat "$secret")
    login=${url#*://}
    login=${login%%@*}
    role=${login%%:*}
    password=${login#*:}
    database=${url##*/}
    psql --quiet --set ON_ERROR_STOP=1 --username postgres --set role="$role" --set password="$password" --set database="$database" <<'SQL'
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"database" OWNER :"role";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL
done
