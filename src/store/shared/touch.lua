-- ARGV: prefix, id, now, expiry, milliseconds to live
local r = redis.call('HMGET', key(ID), 'x', 'd')
local found = status(r[1], r[2])
if found == 'found' then
  if tonumber(ARGV[4]) > tonumber(r[1]) then redis.call('HSET', key(ID), 'x', ARGV[4]) end
  redis.call('HSET', key(ID), 'u', ARGV[3])
  keep(ID, tonumber(ARGV[5]))
end
return found
