delete from job where number in (
  select number
  from job
  where expires_at <= ?1 and expires_at is not null and result_bytes is null
  order by expires_at
  limit ?2
)
