-- A destination is known by its clinic and its id: two clinics that choose ids of their own may have Endpoints of one id,
-- and neither learns of the other's by it.
ALTER TABLE delivery DROP CONSTRAINT delivery_destination_fkey, DROP CONSTRAINT delivery_pkey;
ALTER TABLE delivery_destination DROP CONSTRAINT delivery_destination_pkey, ADD PRIMARY KEY (tenant, id);
ALTER TABLE delivery
    ADD PRIMARY KEY (tenant, destination, type, id),
    ADD FOREIGN KEY (tenant, destination) REFERENCES delivery_destination (tenant, id);

DROP INDEX delivery_queue, delivery_sending, delivery_of_patient, delivery_by_task, delivery_unshown;
CREATE INDEX delivery_queue ON delivery (tenant, destination, place) INCLUDE (key) WHERE state = 'queued';
CREATE INDEX delivery_sending ON delivery (tenant, destination, sent_at) WHERE state = 'sending';
CREATE INDEX delivery_of_patient ON delivery (tenant, destination, key);
CREATE INDEX delivery_by_task ON delivery (tenant, task_id) WHERE task_id IS NOT NULL;
CREATE INDEX delivery_unshown ON delivery (tenant, destination, queued_at) WHERE state IN ('queued', 'waiting');
