-- Keys that a queue takes once within a time: many in a row, as one commit brought them.

-- `newest_at` is the time of the newest key inside, in milliseconds. `entries`: 16 bytes of hash
-- and 6 of time each.
create table deduplication (
  id bigint generated always as identity primary key,
  queue_id bigint not null,
  newest_at bigint not null,
  entries bytea not null check (length(entries) > 0 and length(entries) % 22 = 0)
);

alter table deduplication
  alter column entries set storage external;

create index deduplication_age on deduplication (queue_id, newest_at);
