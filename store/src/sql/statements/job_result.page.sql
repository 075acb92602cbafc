select job_id, cast(length(body) as bigint)
from job_result
where job_id > ?1
order by job_id
limit ?2
