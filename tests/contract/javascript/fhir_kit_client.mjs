// A tour by fhir-kit-client: node fhir_kit_client.mjs <FHIR base>. Exits with 1 and says where it failed.
import assert from "node:assert/strict";
import { Client } from "fhir-kit-client";

const client = new Client({ baseUrl: process.argv[2] });
const family = `Kit-${process.pid}-${Date.now()}`;
const identifier = { system: "urn:example:kit", value: family };

async function refused(promise, status) {
  const error = await promise.then(
    () => assert.fail(`expected ${status}`),
    (reason) => reason,
  );
  assert.equal(error.response.status, status);
  assert.equal(error.response.data.resourceType, "OperationOutcome");
  return error.response.data.issue[0];
}

const capabilities = await client.capabilityStatement();
assert.equal(capabilities.fhirVersion, "4.0.1");

// create, read, vread, update, history
const created = await client.create({
  resourceType: "Patient",
  body: { resourceType: "Patient", identifier: [identifier], name: [{ family, given: ["Ada"] }], birthDate: "1980-02-03" },
});
const id = created.id;
assert.equal(created.meta.versionId, "1");
assert.deepEqual(await client.read({ resourceType: "Patient", id }), created);
const updated = await client.update({
  resourceType: "Patient",
  id,
  body: { ...created, gender: "female" },
  options: { headers: { "If-Match": 'W/"1"' } },
});
assert.equal(updated.meta.versionId, "2");
await refused(
  client.update({ resourceType: "Patient", id, body: created, options: { headers: { "If-Match": 'W/"1"' } } }),
  412,
);
assert.equal((await client.vread({ resourceType: "Patient", id, version: "1" })).gender, undefined);

// conditional create makes no second one; a conditional update finds the same one
const again = await client.create({
  resourceType: "Patient",
  body: { resourceType: "Patient", identifier: [identifier] },
  options: { headers: { "If-None-Exist": `identifier=${identifier.system}|${identifier.value}` } },
});
assert.equal(again.id, id);
const conditional = await client.update({
  resourceType: "Patient",
  searchParams: { identifier: `${identifier.system}|${identifier.value}` },
  body: { ...updated, active: true },
});
assert.equal(conditional.id, id);

// JSON Patch
const patched = await client.patch({
  resourceType: "Patient",
  id,
  jsonPatch: [{ op: "replace", path: "/birthDate", value: "1980-02-04" }],
});
assert.equal(patched.birthDate, "1980-02-04");

// A transaction whose entries refer to each other; a batch of reads
const systolic = (value) => ({
  resourceType: "Observation",
  status: "final",
  meta: { source: "urn:example:kit" },
  category: [{ coding: [{ system: "http://terminology.hl7.org/CodeSystem/observation-category", code: "vital-signs" }] }],
  code: { coding: [{ system: "http://loinc.org", code: "8480-6" }] },
  subject: { reference: "urn:uuid:6f1f52b0-0d55-4f2b-9a52-000000000001" },
  effectiveDateTime: "2026-01-02T10:00:00Z",
  valueQuantity: { value, unit: "mm[Hg]", system: "http://unitsofmeasure.org", code: "mm[Hg]" },
});
const bundle = await client.transaction({
  body: {
    resourceType: "Bundle",
    type: "transaction",
    entry: [
      {
        fullUrl: "urn:uuid:6f1f52b0-0d55-4f2b-9a52-000000000001",
        resource: { resourceType: "Patient", meta: { source: "urn:example:kit" }, name: [{ family: `${family}-b` }] },
        request: { method: "POST", url: "Patient" },
      },
      ...[118, 121, 124].map((value) => ({
        resource: systolic(value),
        request: { method: "POST", url: "Observation" },
      })),
    ],
  },
});
assert.equal(bundle.type, "transaction-response");
assert.ok(bundle.entry.every((entry) => entry.response.status.startsWith("201")));
const other = bundle.entry[0].response.location.split("/_history")[0].split("/").pop();
const batch = await client.batch({
  body: {
    resourceType: "Bundle",
    type: "batch",
    entry: [
      { request: { method: "GET", url: `Patient/${id}` } },
      { request: { method: "GET", url: "Patient/nobody-at-all" } },
    ],
  },
});
assert.deepEqual(
  batch.entry.map((entry) => entry.response.status.slice(0, 3)),
  ["200", "404"],
);

// search, pages there and back, includes, compartment
const found = await client.search({ resourceType: "Patient", searchParams: { family } });
assert.equal(found.total ?? found.entry.length, found.entry.length);
let page = await client.search({
  resourceType: "Observation",
  searchParams: { patient: other, _count: 2, _include: "Observation:subject" },
});
const first = page;
const values = [];
for (; page; page = await client.nextPage({ bundle: page })) {
  for (const entry of page.entry ?? []) {
    if (entry.search.mode === "match") values.push(entry.resource.valueQuantity.value);
    else assert.equal(entry.resource.id, other);
  }
  if (!page.link.some((link) => link.relation === "next")) break;
}
assert.deepEqual(values.sort(), [118, 121, 124]);
const second = await client.nextPage({ bundle: first });
const back = await client.prevPage({ bundle: second });
assert.deepEqual(
  back.entry.map((entry) => entry.resource.id),
  first.entry.map((entry) => entry.resource.id),
);

// operations
const everything = await client.operation({ name: "everything", resourceType: "Patient", id: other, method: "GET" });
assert.ok(everything.entry.length >= 4);
const verdict = await client.operation({
  name: "validate",
  resourceType: "Patient",
  input: { resourceType: "Patient", gender: "nope" },
});
assert.equal(verdict.resourceType, "OperationOutcome");
assert.ok(verdict.issue.some((issue) => issue.severity === "error"));

// delete, and what is then told
await client.delete({ resourceType: "Patient", id });
await refused(client.read({ resourceType: "Patient", id }), 410);
await refused(client.read({ resourceType: "Patient", id: "nobody-at-all" }), 404);
const issue = await refused(client.search({ resourceType: "Patient", searchParams: { nosuch: "1" } }), 400);
assert.match(JSON.stringify(issue), /nosuch/);
console.log("fhir-kit-client: done");
