update engine
set run = run + 1, commit_number = 0, clean = 0
where id = 1
returning run, last_segment_id
