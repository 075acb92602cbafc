-- What is declared: vhosts, users, exchanges, queues, bindings; who owns the store.
--
-- Against SQLite's twin: flags are booleans; texts compare by byte; bindings are told apart by a
-- hash of their arguments, which may be too long for an index. There is no `engine`: what it keeps
-- stands in each line of `journal`. `owner` is new, as several nodes may ask for the store.

create table vhost (
  id bigint generated always as identity primary key,
  name text collate "C" not null unique
);

create table "user" (
  id bigint generated always as identity primary key,
  name text collate "C" not null unique,
  password_hash text not null,
  hashing text not null,
  tags text not null
);

create table permission (
  id bigint generated always as identity primary key,
  vhost text collate "C" not null,
  user_name text collate "C" not null,
  configure text not null,
  write text not null,
  read text not null,
  unique (vhost, user_name)
);

create table exchange (
  id bigint generated always as identity primary key,
  vhost text collate "C" not null,
  name text collate "C" not null,
  kind text not null check (kind in ('direct', 'fanout', 'topic', 'headers')),
  durable boolean not null,
  auto_delete boolean not null,
  internal boolean not null,
  arguments bytea not null,
  unique (vhost, name)
);

create table queue (
  id bigint primary key,
  vhost text collate "C" not null,
  name text collate "C" not null,
  durable boolean not null,
  exclusive boolean not null,
  auto_delete boolean not null,
  work boolean not null,
  arguments bytea not null,
  unique (vhost, name)
);

create table binding (
  id bigint generated always as identity primary key,
  vhost text collate "C" not null,
  source text collate "C" not null,
  destination_kind text collate "C" not null check (destination_kind in ('queue', 'exchange')),
  destination text collate "C" not null,
  routing_key bytea not null,
  arguments bytea not null
);

create unique index binding_identity
on binding (vhost, source, destination_kind, destination, routing_key, sha256(arguments));

-- One row. Each taking of ownership raises `epoch`; it is the key, so that a commit which holds the
-- row `for key share` stops a taking and is not in the way of a renewal. `cluster` names whose
-- store it is.
create table owner (
  epoch bigint primary key,
  id bigint not null unique check (id = 1),
  cluster text not null,
  node text not null,
  taken_at bigint not null,
  renewed_at bigint not null,
  lease_ms bigint not null,
  released boolean not null
) with (fillfactor = 20);

insert into owner (epoch, id, cluster, node, taken_at, renewed_at, lease_ms, released)
values (0, 1, '', '', 0, 0, 0, true);
