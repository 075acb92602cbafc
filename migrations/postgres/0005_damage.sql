-- Segments that did not read back as written, kept aside for whoever repairs: the log goes on
-- without the damaged messages.

create table damaged_segment (
  id bigint primary key,
  queue_id bigint not null,
  first_seq bigint not null,
  last_seq bigint not null,
  count bigint not null,
  bytes bigint not null,
  transient boolean not null,
  first_at bigint not null,
  last_at bigint not null,
  content_index bytea not null,
  content bytea not null
);

alter table damaged_segment
  alter column content_index set storage external,
  alter column content set storage external;
