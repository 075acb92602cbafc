-- The queues' logs: segments, what is settled in them, heads, and messages that wait on their own.

create table segment (
  id integer primary key,
  queue_id integer not null,
  first_seq integer not null,
  last_seq integer not null,
  count integer not null,
  bytes integer not null check (bytes >= 0),
  transient integer not null check (transient in (0, 1)),
  first_at integer not null,
  last_at integer not null,
  content_index blob not null,
  content blob not null,
  check (count between 1 and last_seq - first_seq + 1)
);

create table settled (
  segment_id integer primary key,
  queue_id integer not null,
  bits blob not null
);

-- `run` and `commit_number` name the commit that wrote the row; they spare each commit a second page.
create table head (
  queue_id integer primary key,
  head_seq integer not null,
  handed_seq integer not null,
  next_seq integer not null,
  run integer not null,
  commit_number integer not null,
  check (head_seq <= next_seq and handed_seq <= next_seq)
);

create table waiting (
  id integer primary key,
  queue_id integer not null,
  seq integer not null,
  due_at integer not null,
  attempt integer not null check (attempt >= 0),
  content_index blob not null,
  content blob not null,
  unique (queue_id, seq)
);
