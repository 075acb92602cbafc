delete from retained where segment_id in (
  ?
)
