-- Who may do what beyond permissions, and what operators define.

alter table vhost add column description text not null default '';
alter table vhost add column tags text not null default '';

create table topic_permission (
  id bigint generated always as identity primary key,
  vhost text collate "C" not null,
  user_name text collate "C" not null,
  exchange text collate "C" not null,
  write text not null,
  read text not null,
  unique (vhost, user_name, exchange)
);

create table policy (
  id bigint generated always as identity primary key,
  kind text collate "C" not null check (kind in ('user', 'operator')),
  vhost text collate "C" not null,
  name text collate "C" not null,
  pattern text not null,
  apply_to text not null,
  priority bigint not null,
  definition bytea not null,
  unique (vhost, kind, name)
);

-- A global parameter has an empty vhost and an empty component.
create table parameter (
  id bigint generated always as identity primary key,
  vhost text collate "C" not null,
  component text collate "C" not null,
  name text collate "C" not null,
  value text not null,
  unique (vhost, component, name)
);

create table limit_value (
  id bigint generated always as identity primary key,
  subject_kind text collate "C" not null check (subject_kind in ('vhost', 'user')),
  subject text collate "C" not null,
  name text collate "C" not null,
  value bigint not null,
  unique (subject_kind, subject, name)
);
