-- Where each schedule stands, and which ticks were fired.

create table schedule (
  id bigint generated always as identity primary key,
  name text collate "C" not null unique,
  spec_hash bigint not null,
  last_nominal_at bigint not null
) with (fillfactor = 50);

create table fire (
  schedule text collate "C" not null,
  nominal_at bigint not null,
  fired_at bigint not null,
  primary key (schedule, nominal_at)
);

create index fire_age on fire (fired_at);
