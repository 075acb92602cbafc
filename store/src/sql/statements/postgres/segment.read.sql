select content_index, content from segment_{slot} where id = $1
