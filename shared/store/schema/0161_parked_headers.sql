-- Of a record that could not be read: its headers, so that a later program can read it.
ALTER TABLE parked ADD COLUMN header_names text[] COLLATE "C", ADD COLUMN header_values bytea[];
