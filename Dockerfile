# One image per service:  docker build --build-arg SERVICE=intake -t kap-exchange/intake .
# The final layer holds Python, the locked dependencies, `shared` and that one service: no compiler, no pip cache, no root.
ARG PYTHON=3.12-slim

FROM python:${PYTHON} AS dependencies
COPY requirements.lock /tmp/requirements.lock
RUN python -m venv /opt/kap \
    && /opt/kap/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/requirements.lock \
    && /opt/kap/bin/pip uninstall --yes --quiet pip

FROM python:${PYTHON}
ARG SERVICE
RUN test -n "${SERVICE}" || { echo "Name the service: --build-arg SERVICE=intake" >&2; exit 1; }
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin kap
COPY --from=dependencies /opt/kap /opt/kap
WORKDIR /app
COPY policies policies
COPY shared shared
COPY services/__init__.py services/run.py services/
COPY services/${SERVICE} services/${SERVICE}
ENV PATH=/opt/kap/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    KAP_SERVICE=${SERVICE} KAP_HOST=0.0.0.0 KAP_PORT=8000
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['KAP_PORT']}/readyz\", timeout=2)"]
ENTRYPOINT ["sh", "-c", "exec python -m services.run \"$KAP_SERVICE\""]
