"""The HL7 validator's engine (HAPI's FhirInstanceValidator), offline: a second opinion on what the system emits.

It runs in a process of its own, `python -m shared.testing.hl7_validator PACKAGE...`: one JVM, joined to Python by
JPype, which is asked and answers by lines of JSON. R4's definitions come with the engine; what the packages hold (US
Core, the project's own profiles) is loaded beside them. No terminology server is asked: a code whose system is not at
hand gives a message that says so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from shared.local.jars import JarSet, read_lock, resolve
from shared.local.kafka import find_java

LOCK = Path(__file__).with_name("hl7-validator-jars.lock")

VALIDATOR = JarSet(
    name="the HL7 validator",
    version=next(jar.version for jar in read_lock(LOCK) if jar.artifact == "hapi-fhir-validation"),
    lock=LOCK,
    otherwise=".",
)
HEAP = "-Xmx1400m"
READY = "ready"
VALIDATORS = "org.hl7.fhir.common.hapi.validation.validator."
PINNED_R4 = re.compile(r'("http://hl7\.org/fhir/(?:StructureDefinition|ValueSet)/[\w-]+)\|4\.0\.1"')
"""How some packages name R4's own definitions; the engine knows them, in that version only, by their plain URL."""
CONFORMANCE = frozenset({"StructureDefinition", "ValueSet", "CodeSystem"})


@dataclass(frozen=True, slots=True)
class Message:
    """One thing the engine says: `severity` is ``ERROR``, ``WARNING`` or ``INFORMATION``; `kind` its message id."""

    severity: str
    location: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity} {self.location}: {self.text} [{self.kind}]"


class Hl7ValidatorError(RuntimeError):
    """The engine did not start, or ended."""


class Hl7Validator:
    """The engine in its process; safe to ask from several threads, one at a time.

    Args:
        packages: FHIR packages (``.tgz``), or JSON files of single conformance resources.

    """

    def __init__(self, packages: Sequence[Path]) -> None:
        resolve(VALIDATOR)
        command = [sys.executable, "-m", "shared.testing.hl7_validator", *map(str, packages)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._one = threading.Lock()
        said = self._stdout.readline().strip()
        if said != READY:
            self._process.kill()
            self._process.wait()
            raise Hl7ValidatorError(f"the HL7 validator did not start (its own words are above); it said {said!r}")

    def validate(self, resource: str, *profiles: str) -> list[Message]:
        """Return all that the engine says about one resource, given as JSON text.

        It is held to R4, to the profiles that it claims itself, and to `profiles` (canonical URLs).

        Raises:
            Hl7ValidatorError: the process ended.

        """
        with self._one:
            self._stdin.write(json.dumps([resource, *profiles]) + "\n")
            self._stdin.flush()
            answer = self._stdout.readline()
        if not answer:
            raise Hl7ValidatorError(f"the HL7 validator ended with {self._process.wait()}")
        return [Message(*fields) for fields in json.loads(answer)]

    def close(self) -> None:
        """End the process."""
        self._stdin.close()
        self._process.wait(timeout=30)
        self._stdout.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


def _conformance_resources(packages: Iterable[Path]) -> Iterator[str]:
    for path in packages:
        if path.suffix == ".json":
            yield path.read_text(encoding="utf-8")
            continue
        with tarfile.open(path) as archive:
            for member in archive:
                in_package = member.name.startswith("package/") and member.name.endswith(".json")
                file = archive.extractfile(member) if in_package else None
                text = file.read().decode("utf-8-sig") if file is not None else "{}"
                content = json.loads(text)
                if isinstance(content, dict) and content.get("resourceType") in CONFORMANCE:
                    yield PINNED_R4.sub(r'\1"', text)


def _engine(packages: Sequence[Path]) -> tuple[Any, Any]:
    """Start the JVM and return HAPI's validator, and the class of its options."""
    import jpype

    library = next(find_java().resolve().parents[1].glob("lib/server/libjvm.*"))
    jars = [str(jar) for jar in resolve(VALIDATOR)]
    jpype.startJVM(str(library), HEAP, "-XX:+UseSerialGC", "-Dslf4j.internal.verbosity=ERROR", classpath=jars)
    support = "org.hl7.fhir.common.hapi.validation.support."
    context = jpype.JClass("ca.uhn.fhir.context.FhirContext").forR4()
    held = jpype.JClass(support + "PrePopulatedValidationSupport")(context)
    parser = context.newJsonParser()
    for text in _conformance_resources(packages):
        held.addResource(parser.parseResource(text))
    chain = jpype.JClass(support + "ValidationSupportChain")(
        jpype.JClass("ca.uhn.fhir.context.support.DefaultProfileValidationSupport")(context),
        held,
        jpype.JClass(support + "CommonCodeSystemsTerminologyService")(context),
        jpype.JClass(support + "InMemoryTerminologyServerValidationSupport")(context),
        jpype.JClass(support + "SnapshotGeneratingValidationSupport")(context),
    )
    # A binding asks for one code of the value set, and allows others beside it (R4, 4.1.3); by itself the engine wants
    # every code of a concept to be in it.
    chain.setCodeableConceptValidationSuccessfulIfNotAllCodingsAreValid(True)
    module = jpype.JClass(VALIDATORS + "FhirInstanceValidator")(chain)
    module.setWrappedWorkerContext(chain, _context_with_a_log()(chain))
    module.setAnyExtensionsAllowed(True)
    validator = context.newValidator()
    validator.registerValidatorModule(module)
    return validator, jpype.JClass("ca.uhn.fhir.validation.ValidationOptions")


def _context_with_a_log() -> Any:
    """Return a class: the engine's context, with the log that it asks for where it has parsed an expression.

    HAPI's own has none, and so the engine calls each SearchParameter wrong whose expression it could read.
    """
    import jpype

    pool = jpype.JClass("javassist.ClassPool").getDefault()
    made = pool.makeClass("kap.Context", pool.get(VALIDATORS + "WorkerContextValidationSupportAdapter"))
    make = jpype.JClass("javassist.CtNewConstructor").make
    made.addConstructor(
        make("public Context(ca.uhn.fhir.context.support.IValidationSupport support) { super(support); }", made)
    )
    log = "org.hl7.fhir.r5.context.Slf4JLoggingService"
    body = f'return new {log}(org.slf4j.LoggerFactory.getLogger("hl7"));'
    method = f"public org.hl7.fhir.r5.context.ILoggingService getLogger() {{ {body} }}"
    made.addMethod(jpype.JClass("javassist.CtNewMethod").make(method, made))
    loader = jpype.JClass("javassist.Loader")(jpype.JClass("java.lang.ClassLoader").getSystemClassLoader(), pool)
    loader.delegateLoadingOf("ca.uhn.")
    loader.delegateLoadingOf("org.")
    return jpype.JClass(loader.loadClass("kap.Context"))


def _main() -> None:
    validator, make_options = _engine([Path(argument) for argument in sys.argv[1:]])
    print(READY, flush=True)  # noqa: T201 - the answers are lines on standard output
    for line in sys.stdin:
        resource, *profiles = json.loads(line)
        options = make_options()
        for profile in profiles:
            options.addProfile(profile)
        said = validator.validateWithResult(resource, options).getMessages()
        fields = [
            [
                str(message.getSeverity()),
                str(message.getLocationString()),
                str(message.getMessageId()),
                str(message.getMessage()),
            ]
            for message in said
        ]
        print(json.dumps(fields), flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    _main()
