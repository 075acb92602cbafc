-- An exchange may be of a type that the first schema did not list; the code knows which there are.

create table exchange_of_any_type (
  id integer primary key,
  vhost text not null,
  name text not null,
  kind text not null,
  durable integer not null check (durable in (0, 1)),
  auto_delete integer not null check (auto_delete in (0, 1)),
  internal integer not null check (internal in (0, 1)),
  arguments blob not null,
  unique (vhost, name)
);

insert into exchange_of_any_type (id, vhost, name, kind, durable, auto_delete, internal, arguments)
select id, vhost, name, kind, durable, auto_delete, internal, arguments
from exchange;

drop table exchange;

alter table exchange_of_any_type rename to exchange;
