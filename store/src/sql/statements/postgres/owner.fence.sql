select 1 / count(*) from (select 1 from owner where epoch = $1 for key share) as held
