select job_id, length(body)
from job_result
where job_id > ?1
order by job_id
limit ?2
