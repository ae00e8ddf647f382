"""Programs that do harm to a store while it is used, and then look for what was lost, done twice or illegal."""
