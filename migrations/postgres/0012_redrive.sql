-- Moves of messages from queue to queue that operators asked for, and queues that they paused.

alter table queue add column paused boolean not null default false;

-- `target` is null for a move of each message to where it came from.
create table redrive (
  number bigint generated always as identity primary key,
  id text collate "C" not null unique,
  queue_id bigint not null,
  vhost text not null,
  source text not null,
  target text,
  filter bytea not null,
  rate double precision,
  until_seq bigint not null,
  next_seq bigint not null,
  moved bigint not null,
  skipped bigint not null,
  state text not null check (state in ('running', 'done', 'cancelled', 'failed')),
  detail text not null,
  created_at bigint not null,
  ended_at bigint,
  check ((ended_at is null) = (state = 'running'))
);
