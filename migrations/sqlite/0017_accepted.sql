-- When a message that waits was accepted: its due time and its row change with every attempt. 0 in a
-- row of the release before, which did not know. It stands behind the blobs, as a column that is added
-- must, and is read together with them only: no header scan asks for it.

alter table waiting add column accepted_at integer not null default 0;
