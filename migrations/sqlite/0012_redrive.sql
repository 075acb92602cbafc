-- Moves of messages from queue to queue that operators asked for, and queues that they paused.

alter table queue add column paused integer not null default 0 check (paused in (0, 1));

-- `target` is null for a move of each message to where it came from.
create table redrive (
  number integer primary key,
  id text not null unique,
  queue_id integer not null,
  vhost text not null,
  source text not null,
  target text,
  filter blob not null,
  rate real,
  until_seq integer not null,
  next_seq integer not null,
  moved integer not null,
  skipped integer not null,
  state text not null check (state in ('running', 'done', 'cancelled', 'failed')),
  detail text not null,
  created_at integer not null,
  ended_at integer,
  check ((ended_at is null) = (state = 'running'))
);
