"""What Redis does in one piece: Lua, each script as text.

All keys of a script have one hash tag, so that they are on one server of a cluster. A server tells
in ``INFO`` which of its lives it is in (``run_id``): data that were there in one life may be
missing in the next, and nothing that was sent in between can be taken for known.
"""

STATE = """
local info = redis.call('INFO', 'server')
local run = string.match(info, 'run_id:(%x+)')
local aof = string.match(redis.call('INFO', 'persistence'), 'aof_enabled:(%d)')
local second = string.match(redis.call('INFO', 'replication'), 'master_replid2:(%x+)')
local kept = aof == '1' and (not second or not string.match(second, '[^0]'))
local time = redis.call('TIME')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local ids = {}
for number = 2, #KEYS do
  local id = ''
  local found = redis.pcall('XINFO', 'STREAM', KEYS[number])
  if not found.err then
    for field = 1, #found, 2 do
      if found[field] == 'last-generated-id' then id = found[field + 1] end
    end
  end
  ids[number - 1] = id
end
return {redis.call('GET', KEYS[1]) or '-1', run, kept and 1 or 0, time[1], time[2], ids}
"""
"""KEYS: the guard, streams. ARGV: ms that the guard lives.
Returns what the guard says, the server's life, whether all that it ever showed is still there,
its clock (s, us), and the last ids of the streams ('' for one that is not there)."""

SET_GUARD = """
local now = redis.call('GET', KEYS[1]) or '-1'
if now == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return redis.call('GET', KEYS[1]) or '-1'
"""
"""KEYS: the guard. ARGV: what it says, what it is to say, ms that it lives."""

PUBLISH = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local sent = tonumber(redis.call('GET', KEYS[1]) or '-1')
if run ~= ARGV[1] or sent < tonumber(ARGV[2]) then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(ARGV[6]) then return 0 end
local oldest = string.format('%.0f', now - ARGV[4])
local touched = {}
for place = 7, #ARGV, 3 do
  if tonumber(ARGV[place]) > sent then
    local key = KEYS[tonumber(ARGV[place + 1])]
    redis.call('XADD', key, 'MINID', '~', oldest, '*', 'd', ARGV[place + 2])
    touched[key] = true
  end
end
for key in pairs(touched) do redis.call('PEXPIRE', key, ARGV[5]) end
if tonumber(ARGV[3]) > sent then redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[5]) end
return 1
"""
"""KEYS: the guard, streams. ARGV: the server's life, the number that the guard has at least, the
one that it is to have, ms after which an entry is of no use, ms that a key lives, the time (ms) by
which this has to be here; then for each message its number, that of its stream among KEYS, and the
entry.
Returns 1 if all of them are in their streams, once; 0 if nothing was done, since Redis is not the
one that it was, or this was under way for too long: the network may hand over what it held back
when a cable is mended, and lifetimes in it are those of when it was sent."""

TAKE = """
local time = redis.call('TIME')
local oldest = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[2])
local taken = 0
for place = 4, #ARGV, 2 do
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[place]) == 1 then
    redis.call('XDEL', KEYS[1], ARGV[place])
    if ARGV[place + 1] ~= '' then
      redis.call('XADD', KEYS[2], 'MINID', '~', oldest, '*', 'd', ARGV[place + 1])
    end
    taken = taken + 1
  end
end
if taken > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return taken
"""
"""KEYS: the stream of a shared channel, a node's. ARGV: the group of consumers, ms after which an
entry is of no use, ms that a key lives; then for each entry its id and what takes its place in the
node's stream, '' for nothing. Whoever acknowledges an entry first has it."""
