-- Segments that did not read back as written, kept aside for whoever repairs: the log goes on
-- without the damaged messages.

create table damaged_segment (
  id integer primary key,
  queue_id integer not null,
  first_seq integer not null,
  last_seq integer not null,
  count integer not null,
  bytes integer not null,
  transient integer not null,
  first_at integer not null,
  last_at integer not null,
  content_index blob not null,
  content blob not null
);
