-- Segments whose messages are settled and kept for a replay, and replays beside redrives.

create table retained (
  segment_id bigint primary key,
  queue_id bigint not null,
  settled_at bigint not null
);

create index retained_by_queue on retained (queue_id);

alter table redrive add column kind text not null default 'ready' check (kind in ('ready', 'retained'));
