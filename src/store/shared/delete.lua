-- ARGV: prefix, id, now; to bury it, until when, and the milliseconds until then
local r = redis.call('HMGET', key(ID), 'x', 'd', 'k')
local found = status(r[1], r[2])
if ARGV[4] then
  if not r[1] then
    redis.call('HSET', key(ID), 'x', ARGV[4], 'd', '1')
    redis.call('PEXPIRE', key(ID), ARGV[5])
  end
  redis.call('HSET', key(ID), 'b', '1')
end
if found == 'found' then
  redis.call('HSET', key(ID), 'd', '1')
  if tonumber(r[3] or '0') <= 0 then release(ID) end
end
return found
