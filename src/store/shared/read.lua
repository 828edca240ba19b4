-- ARGV: prefix, id, now, most predecessors to read
-- Gives: status, and of what was found expiry, last use, previous and content, then id and content of each
-- predecessor, newest first. One that is gone has an empty content.
local r = redis.call('HMGET', key(ID), 'x', 'd', 'u', 'p', 'c')
local found = status(r[1], r[2])
if found ~= 'found' then return {found} end
local reply = {found, r[1], r[3], r[4] or '', r[5] or ''}
local id = r[4]
for n = 1, tonumber(ARGV[4]) do
  if not id or id == '' then break end
  -- A chain that does not end is one with a gap.
  local p = n < LONGEST_CHAIN and redis.call('HMGET', key(id), 'p', 'c') or {}
  reply[#reply + 1] = id
  reply[#reply + 1] = p[2] or ''
  id = p[1]
end
return reply
