delete from job_result where job_id in (
  select id
  from job
  where expires_at <= ?1 and result_bytes is not null
  order by expires_at
  limit ?2
)
