-- Deferred calls, their results and the claims of their idempotency keys.
--
-- Against SQLite's twin: types, and room in the pages for a job's next states.

create table job (
  number bigint generated always as identity primary key,
  id bytea not null unique check (length(id) = 16),
  vhost text not null,
  target text not null,
  principal text not null,
  state text not null check (
    state in ('queued', 'running', 'retrying', 'succeeded', 'failed', 'cancelled', 'expired')
  ),
  attempt bigint not null check (attempt >= 0),
  max_attempts bigint not null,
  created_at bigint not null,
  started_at bigint,
  completed_at bigint,
  next_attempt_at bigint,
  deadline_at bigint not null,
  expires_at bigint,
  result_ttl_ms bigint not null,
  idempotency_key text,
  error_code text,
  error_detail text,
  result_content_type text,
  result_content_encoding text,
  result_bytes bigint,
  check ((completed_at is not null) = (state in ('succeeded', 'failed', 'cancelled', 'expired'))),
  check ((expires_at is not null) = (completed_at is not null)),
  check ((error_code is null) = (error_detail is null))
) with (fillfactor = 70);

create index job_by_state on job (state, id);
create index job_open on job (deadline_at) where completed_at is null;
create index job_with_result on job (expires_at) where result_bytes is not null;
create index job_tombstone on job (expires_at) where expires_at is not null and result_bytes is null;

create table job_result (
  number bigint generated always as identity primary key,
  job_id bytea not null unique,
  content_type text,
  content_encoding text,
  body bytea not null
);

alter table job_result
  alter column body set storage external;

create table job_key (
  number bigint generated always as identity primary key,
  scope text collate "C" not null unique,
  job_id bytea not null check (length(job_id) = 16),
  claimed_at bigint not null,
  expires_at bigint not null,
  fingerprint bytea not null check (length(fingerprint) = 32)
);

create index job_key_expiry on job_key (expires_at);
