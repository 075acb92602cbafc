-- Who may do what beyond permissions, and what operators define.

alter table vhost add column description text not null default '';
alter table vhost add column tags text not null default '';

create table topic_permission (
  id integer primary key,
  vhost text not null,
  user_name text not null,
  exchange text not null,
  write text not null,
  read text not null,
  unique (vhost, user_name, exchange)
);

create table policy (
  id integer primary key,
  kind text not null check (kind in ('user', 'operator')),
  vhost text not null,
  name text not null,
  pattern text not null,
  apply_to text not null,
  priority integer not null,
  definition blob not null,
  unique (vhost, kind, name)
);

-- A global parameter has an empty vhost and an empty component.
create table parameter (
  id integer primary key,
  vhost text not null,
  component text not null,
  name text not null,
  value text not null,
  unique (vhost, component, name)
);

create table limit_value (
  id integer primary key,
  subject_kind text not null check (subject_kind in ('vhost', 'user')),
  subject text not null,
  name text not null,
  value integer not null,
  unique (subject_kind, subject, name)
);
