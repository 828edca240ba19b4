-- ARGV: prefix, id, now
local r = redis.call('HMGET', key(ID), 'x', 'd', 'k')
local found = status(r[1], r[2])
if found == 'found' then
  redis.call('HSET', key(ID), 'd', '1')
  if tonumber(r[3] or '0') <= 0 then release(ID) end
end
return found
