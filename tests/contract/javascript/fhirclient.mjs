// A tour by fhirclient.js (SMART's client): node fhirclient.mjs <FHIR base>. Exits with 1 and says where it failed.
import assert from "node:assert/strict";
import smart from "fhirclient";

// In Node the library sits in a web server; outside of a request it is given an empty one.
const client = smart({ headers: {}, url: "/" }, {}).client(process.argv[2]);
const family = `Smart-${process.pid}-${Date.now()}`;

assert.equal(await client.getFhirVersion(), "4.0.1");
assert.equal(await client.getFhirRelease(), 4);

const created = await client.create({ resourceType: "Patient", name: [{ family }], active: true });
const organization = await client.create({ resourceType: "Organization", name: `Clinic of ${family}` });
const updated = await client.update({
  ...created,
  managingOrganization: { reference: `Organization/${organization.id}` },
});
assert.equal(updated.meta.versionId, "2");

const resolved = await client.request(`Patient/${created.id}`);
await client.resolveReferences(resolved, ["managingOrganization"]);
assert.equal(resolved.managingOrganization.name, organization.name);

const patched = await client.patch(`Patient/${created.id}`, [{ op: "replace", path: "/active", value: false }]);
assert.equal(patched.active, false);

for (let number = 1; number <= 5; number += 1) {
  await client.create({
    resourceType: "Observation",
    status: "final",
    meta: { source: "urn:example:smart" },
    code: { coding: [{ system: "http://loinc.org", code: "8867-4", display: "Heart rate" }] },
    subject: { reference: `Patient/${created.id}` },
    effectiveDateTime: `2026-01-0${number}`,
    valueQuantity: { value: 60 + number, unit: "/min", system: "http://unitsofmeasure.org", code: "/min" },
  });
}
const sorted = `Observation?patient=${created.id}&_sort=date&_count=2`;
const rates = await client.request(sorted, { pageLimit: 0, flat: true });
assert.deepEqual(
  rates.map((resource) => resource.valueQuantity.value),
  [61, 62, 63, 64, 65],
);
const pages = await client.request(sorted, { pageLimit: 2, resolveReferences: ["subject"] });
assert.deepEqual(
  pages.map((page) => page.entry.length),
  [2, 2],
);

await assert.rejects(client.request("Patient?nosuch=1"), /nosuch/);
await client.delete(`Patient/${created.id}`);
await assert.rejects(client.request(`Patient/${created.id}`), (error) => error.status === 410);
console.log("fhirclient.js: done");
