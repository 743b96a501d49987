"""Write shared/local/kafka-jars.lock for a release of Apache Kafka; needs mvn.

    python tools/lock_kafka_jars.py 4.3.1 2.25.4

Arguments: the release of Kafka, and the release of log4j that it is built with (its `log4j-core`; the binding that
joins it to slf4j is not among Kafka's own dependencies). Which jars, and in which versions, is what Maven resolves.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).parents[1] / "shared" / "local" / "kafka-jars.lock"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"

HEADER = """\
# Apache Kafka and what it needs to run: the runtime dependencies of org.apache.kafka:kafka_2.13 and of
# org.apache.logging.log4j:log4j-slf4j-impl, as Maven resolves them. Written by tools/lock_kafka_jars.py.
"""
POM = """\
<project><modelVersion>4.0.0</modelVersion><groupId>kap</groupId><artifactId>lock</artifactId><version>1</version>
<packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{}</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{}</version>
</dependency></dependencies></project>
"""
COORDINATES = re.compile(r"^\[INFO\] +([\w.\-]+):([\w.\-]+):jar:([\w.\-]+):(?:compile|runtime)", re.MULTILINE)


def main() -> None:
    """Resolve, fetch, hash, write."""
    with tempfile.TemporaryDirectory() as folder:
        pom = Path(folder) / "pom.xml"
        pom.write_text(POM.format(*sys.argv[1:]), encoding="utf-8")
        goals = [f"{PLUGIN}:copy-dependencies", f"-DoutputDirectory={folder}", f"{PLUGIN}:list"]
        command = ["mvn", "-B", "-f", str(pom), "-DincludeScope=runtime", *goals]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = []
        for group, artifact, version in sorted(set(COORDINATES.findall(told))):
            digest = hashlib.sha256((Path(folder) / f"{artifact}-{version}.jar").read_bytes()).hexdigest()
            lines.append(f"{group}:{artifact}:{version} sha256:{digest}\n")
    LOCK.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} jars in {LOCK}")


if __name__ == "__main__":
    main()
