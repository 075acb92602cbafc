savepoint look
