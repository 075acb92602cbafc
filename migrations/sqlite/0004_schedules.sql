-- Where each schedule stands, and which ticks were fired.

create table schedule (
  id integer primary key,
  name text not null unique,
  spec_hash integer not null,
  last_nominal_at integer not null
);

create table fire (
  schedule text not null,
  nominal_at integer not null,
  fired_at integer not null,
  primary key (schedule, nominal_at)
) without rowid;

create index fire_age on fire (fired_at);
