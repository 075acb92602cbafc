-- Deferred calls, their results and the claims of their idempotency keys.

create table job (
  number integer primary key,
  id blob not null unique check (length(id) = 16),
  vhost text not null,
  target text not null,
  principal text not null,
  state text not null check (
    state in ('queued', 'running', 'retrying', 'succeeded', 'failed', 'cancelled', 'expired')
  ),
  attempt integer not null check (attempt >= 0),
  max_attempts integer not null,
  created_at integer not null,
  started_at integer,
  completed_at integer,
  next_attempt_at integer,
  deadline_at integer not null,
  expires_at integer,
  result_ttl_ms integer not null,
  idempotency_key text,
  error_code text,
  error_detail text,
  result_content_type text,
  result_content_encoding text,
  result_bytes integer,
  check ((completed_at is not null) = (state in ('succeeded', 'failed', 'cancelled', 'expired'))),
  check ((expires_at is not null) = (completed_at is not null)),
  check ((error_code is null) = (error_detail is null))
);

create index job_by_state on job (state, id);
create index job_open on job (deadline_at) where completed_at is null;
create index job_with_result on job (expires_at) where result_bytes is not null;
create index job_tombstone on job (expires_at) where expires_at is not null and result_bytes is null;

create table job_result (
  number integer primary key,
  job_id blob not null unique,
  content_type text,
  content_encoding text,
  body blob not null
);

create table job_key (
  number integer primary key,
  scope text not null unique,
  job_id blob not null check (length(job_id) = 16),
  claimed_at integer not null,
  expires_at integer not null,
  fingerprint blob not null check (length(fingerprint) = 32)
);

create index job_key_expiry on job_key (expires_at);
