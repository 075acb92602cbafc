-- The type of queues that are declared without one, by vhost; empty for the node's, classic.

alter table vhost add column default_queue_type text not null default '';
