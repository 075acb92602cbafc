-- What is declared: vhosts, users, exchanges, queues, bindings; and the engine's own row.

create table vhost (
  id integer primary key,
  name text not null unique
);

create table "user" (
  id integer primary key,
  name text not null unique,
  password_hash text not null,
  hashing text not null,
  tags text not null
);

create table permission (
  id integer primary key,
  vhost text not null,
  user_name text not null,
  configure text not null,
  write text not null,
  read text not null,
  unique (vhost, user_name)
);

create table exchange (
  id integer primary key,
  vhost text not null,
  name text not null,
  kind text not null check (kind in ('direct', 'fanout', 'topic', 'headers')),
  durable integer not null check (durable in (0, 1)),
  auto_delete integer not null check (auto_delete in (0, 1)),
  internal integer not null check (internal in (0, 1)),
  arguments blob not null,
  unique (vhost, name)
);

create table queue (
  id integer primary key,
  vhost text not null,
  name text not null,
  durable integer not null check (durable in (0, 1)),
  exclusive integer not null check (exclusive in (0, 1)),
  auto_delete integer not null check (auto_delete in (0, 1)),
  work integer not null check (work in (0, 1)),
  arguments blob not null,
  unique (vhost, name)
);

create table binding (
  id integer primary key,
  vhost text not null,
  source text not null,
  destination_kind text not null check (destination_kind in ('queue', 'exchange')),
  destination text not null,
  routing_key blob not null,
  arguments blob not null,
  unique (vhost, source, destination_kind, destination, routing_key, arguments)
);

-- One row. `run` counts openings; `commit_number` belongs to the present run; the two `last_…_id`
-- keep numbers from being used twice after their rows are gone.
create table engine (
  id integer primary key check (id = 1),
  run integer not null,
  commit_number integer not null,
  clean integer not null check (clean in (0, 1)),
  last_queue_id integer not null,
  last_segment_id integer not null
);

insert into engine (id, run, commit_number, clean, last_queue_id, last_segment_id)
values (1, 0, 0, 1, 0, 0);
