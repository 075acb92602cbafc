delete from settled where segment_id in (
  ?
)
