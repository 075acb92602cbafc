with moved as (
  delete from waiting_{other} where (queue_id, seq) in (
    select queue_id, seq from waiting_{other} limit $1
  )
  returning queue_id, seq, due_at, attempt, accepted_at, content_index, content
)
insert into waiting_{slot} (queue_id, seq, due_at, attempt, accepted_at, content_index, content)
select * from moved
