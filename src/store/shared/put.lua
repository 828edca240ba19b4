-- ARGV: prefix, id, now, previous, expiry, last use, milliseconds to live, content
-- Gives: the status of the predecessor.
local previous = ARGV[4]
local found = 'found'
if previous ~= '' then
  local p = redis.call('HMGET', key(previous), 'x', 'd')
  found = status(p[1], p[2])
end
-- It was deleted after this put was sent.
if redis.call('HGET', key(ID), 'b') == '1' then return found end
local old = redis.call('HMGET', key(ID), 'p', 'l')
local linked = '0'
if old[2] == '1' and old[1] == previous then
  linked = '1'
elseif previous ~= '' and previous ~= ID and redis.call('EXISTS', key(previous)) == 1 then
  redis.call('HINCRBY', key(previous), 'k', 1)
  linked = '1'
end
redis.call('HSET', key(ID), 'p', previous, 'l', linked, 'x', ARGV[5], 'u', ARGV[6], 'c', ARGV[8])
redis.call('HDEL', key(ID), 'd')
keep(ID, tonumber(ARGV[7]))
if old[2] == '1' and old[1] ~= previous and redis.call('EXISTS', key(old[1])) == 1
    and redis.call('HINCRBY', key(old[1]), 'k', -1) <= 0 then
  local o = redis.call('HMGET', key(old[1]), 'x', 'd')
  if status(o[1], o[2]) ~= 'found' then release(old[1]) end
end
return found
