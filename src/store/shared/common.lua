-- Shared by all scripts, put before each. A record is a hash:
--   c content, p previous id, l 1 if p counts it, k children, x expiry and u last use (microseconds), d 1 if deleted,
--   b 1 if buried: no put brings it back.
-- The server lets it go once neither it nor a record that continues it is to live longer.
local PREFIX, ID, NOW = ARGV[1], ARGV[2], tonumber(ARGV[3])
local LONGEST_CHAIN = 10000

local function key(id) return PREFIX .. id end

-- The status of a record by its x and d.
local function status(x, d)
  if not x then return 'unknown' end
  local time_is_left = NOW < tonumber(x)
  if d == '1' then return time_is_left and 'deleted' or 'unknown' end
  return time_is_left and 'found' or 'expired'
end

-- The record and what it needs of its chain live this long, in milliseconds. What has longer has it for a
-- record that needs the rest of the chain too.
local function keep(id, time)
  for _ = 1, LONGEST_CHAIN do
    local left = redis.call('PTTL', key(id))
    if left == -2 or left >= time then return end
    redis.call('PEXPIRE', key(id), time)
    id = redis.call('HGET', key(id), 'p')
    if not id or id == '' then return end
  end
end

-- Lets go of a dead record without children, and of dead predecessors that nothing else needs.
local function release(id)
  for _ = 1, LONGEST_CHAIN do
    local r = redis.call('HMGET', key(id), 'x', 'd', 'p', 'l')
    if status(r[1], r[2]) == 'deleted' then
      redis.call('HDEL', key(id), 'c', 'p', 'l', 'k')
      redis.call('PEXPIRE', key(id), math.max(1, math.ceil((tonumber(r[1]) - NOW) / 1000)))
    else
      redis.call('DEL', key(id))
    end
    local previous = r[3]
    if r[4] ~= '1' or redis.call('EXISTS', key(previous)) == 0 then return end
    if redis.call('HINCRBY', key(previous), 'k', -1) > 0 then return end
    local p = redis.call('HMGET', key(previous), 'x', 'd')
    if status(p[1], p[2]) == 'found' then return end
    id = previous
  end
end
