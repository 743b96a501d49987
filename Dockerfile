# One image per service:  docker build --build-arg SERVICE=intake -t kap-exchange/intake .
# The final image begins from nothing and holds Python, the libraries it is linked to, the locked dependencies, `shared` and
# that one service: no shell, no package manager, no compiler, no root.
ARG PYTHON=3.12-slim

FROM python:${PYTHON} AS dependencies
COPY requirements.lock /tmp/requirements.lock
RUN python -m venv /opt/kap \
    && /opt/kap/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/requirements.lock \
    && /opt/kap/bin/pip uninstall --yes --quiet pip

FROM dependencies AS files
RUN set -eu; prefix=$(python -c 'import sys; print(sys.base_prefix)'); version=$(python -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
    rm -rf "$prefix/lib/$version"/site-packages/* "$prefix/lib/$version"/test "$prefix/lib/$version"/ensurepip "$prefix/lib/$version"/idlelib; \
    python -m compileall -q "$prefix/lib/$version" /opt/kap/lib; \
    mkdir -p /files/etc /files/tmp; cp /etc/ld.so.cache /files/etc/; \
    cp -a --parents "$prefix"/bin/python* "$prefix/lib/$version" $(find "$prefix/lib" -maxdepth 1 -name 'libpython*') /opt/kap /files; \
    { readlink -f "$(command -v python)"; find "$prefix/lib" /opt/kap -name '*.so*' -type f; } \
        | xargs -n 1 ldd 2>/dev/null | awk '/=> \// {print $3} $1 ~ /^\// {print $1}' | grep -v -e "^$prefix" -e '^/opt/kap' | sort -u \
        | xargs -I {} cp -L --parents {} /files; \
    cp -L --parents $(find / -xdev -name 'libgcc_s.so.1' | head -1) /files; \
    echo 'kap:x:10001:10001::/:/nonexistent' > /files/etc/passwd; echo 'kap:x:10001:' > /files/etc/group; chmod 1777 /files/tmp; \
    mkdir /anchors

FROM scratch
ARG SERVICE
COPY --from=files /files /
COPY --from=files --chown=10001:10001 /anchors /var/lib/kap/anchors
WORKDIR /app
COPY policies policies
COPY shared shared
COPY services/__init__.py services/run.py services/
COPY services/${SERVICE} services/${SERVICE}
ENV PATH=/opt/kap/bin PYTHONPATH=/app PYTHONUNBUFFERED=1 \
    KAP_SERVICE=${SERVICE} KAP_HOST=0.0.0.0 KAP_PORT=8000 KAP_HEALTH_PORT=8081
RUN ["python", "-c", "import compileall, os, sys; from services.run import MODULES; os.environ['KAP_SERVICE'] in MODULES or sys.exit('Name the service: --build-arg SERVICE=intake'); compileall.compile_dir('/app', quiet=1)"]
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['KAP_HEALTH_PORT']}/readyz\", timeout=8)"]
ENTRYPOINT ["python", "-m", "services.run"]
