"""Bulk Data Access 2.0: `$export` of the system, of patients, of a group, from the gateway's copy.

`asked` reads what is asked for, `caller` tells who may ask and what he is shown, `working` makes the list of
versions that an export is, `answering` is its HTTP: kick-off, status, manifest, files, deletion.

Source: https://hl7.org/fhir/uv/bulkdata/STU2/export.html
"""
