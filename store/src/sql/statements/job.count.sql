select state, count(*) from job group by state
