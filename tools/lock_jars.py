"""Write the locks of the jars: shared/local/kafka-jars.lock and shared/testing/hl7-validator-jars.lock; needs mvn.

    python tools/lock_jars.py kafka 4.3.1 2.25.4
    python tools/lock_jars.py hl7-validator 8.4.0

Arguments: the set; the release of Kafka, and of log4j that it is built with (its `log4j-core`; the binding that joins
it to slf4j is not among Kafka's own dependencies), or the release of HAPI FHIR. Which jars, and in which versions, is
what Maven resolves; of the validator's, those that offline validation of R4 never loads are left out.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1] / "shared"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
COORDINATES = re.compile(r"^\[INFO\] +([\w.\-]+):([\w.\-]+):jar:([\w.\-]+):(?:compile|runtime)", re.MULTILINE)
HAPI = "ca.uhn.hapi.fhir"


@dataclass(frozen=True)
class Wanted:
    """A set to lock: where, the artifacts asked for (each with the index of its version argument), and what to keep."""

    lock: Path
    header: str
    artifacts: tuple[tuple[str, str, int], ...]
    unused: re.Pattern[str] | None = None


SETS = {
    "kafka": Wanted(
        ROOT / "local" / "kafka-jars.lock",
        "# Apache Kafka and what it needs to run: the runtime dependencies of org.apache.kafka:kafka_2.13 and of\n"
        "# org.apache.logging.log4j:log4j-slf4j-impl, as Maven resolves them. Written by tools/lock_jars.py.\n",
        (("org.apache.kafka", "kafka_2.13", 0), ("org.apache.logging.log4j", "log4j-slf4j-impl", 1)),
    ),
    "hl7-validator": Wanted(
        ROOT / "testing" / "hl7-validator-jars.lock",
        "# The HL7 validator's engine (HAPI's FhirInstanceValidator) with R4's definitions, as Maven resolves it,\n"
        "# without what offline validation never loads (drawing, SQL, XSLT, RDF). Written by tools/lock_jars.py.\n",
        (
            (HAPI, "hapi-fhir-validation", 0),
            (HAPI, "hapi-fhir-validation-resources-r4", 0),
            (HAPI, "hapi-fhir-structures-r4", 0),
            (HAPI, "hapi-fhir-caching-caffeine", 0),
        ),
        re.compile(
            r"plantuml|sqlite|Saxon|jena|libthrift|httpc|okhttp|okio|kotlin|protobuf|ph-schematron|ph-|jing|xerces"
            r"|opentelemetry|graphql|jsonld|parsson|jakarta.json|xmlresolver|antlr|icu4j-charset|dstu2016may|sdk-"
        ),
    ),
}


def main() -> None:
    """Resolve, fetch, hash, write."""
    wanted, versions = SETS[sys.argv[1]], sys.argv[2:]
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{versions[which]}</version></dependency>"
        for group, artifact, which in wanted.artifacts
    )
    with tempfile.TemporaryDirectory() as folder:
        pom = Path(folder) / "pom.xml"
        pom.write_text(
            "<project><modelVersion>4.0.0</modelVersion><groupId>kap</groupId><artifactId>lock</artifactId>"
            f"<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>",
            encoding="utf-8",
        )
        goals = [f"{PLUGIN}:copy-dependencies", f"-DoutputDirectory={folder}", f"{PLUGIN}:list"]
        command = ["mvn", "-B", "-f", str(pom), "-DincludeScope=runtime", *goals]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = []
        for group, artifact, version in sorted(set(COORDINATES.findall(told))):
            if wanted.unused is not None and wanted.unused.search(artifact):
                continue
            digest = hashlib.sha256((Path(folder) / f"{artifact}-{version}.jar").read_bytes()).hexdigest()
            lines.append(f"{group}:{artifact}:{version} sha256:{digest}\n")
    wanted.lock.write_text(wanted.header + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} jars in {wanted.lock}")


if __name__ == "__main__":
    main()
